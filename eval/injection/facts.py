"""Facts that no model has read, to measure what training puts into one.

    world = build_world(64, seed=1)
    rounds = articles(world.train.facts, versions=5, seed=1)  # to train on
    asked = [probe.case for probe in world.train.probes if probe.kind == "forward-new"]

A world is invented: companies, bridges, provinces and expeditions, and the people and towns that
belong to them, each with one value for each relation (`eval.injection.wordings`). It has two halves
of one distribution. `train` is for training; `control` is never trained on, has other subjects and
draws its values by itself, so what a model answers there is what guessing in the right form gives.
Whatever is learnt is TRAIN minus CONTROL.

Texts name a subject before its object. So a reverse question can be answered only by a model that
turns a fact round, unless it was trained on `articles(..., reverse=True)`. The facts of a two-hop
question stand in different articles.

Everything follows from one seed. Knows nothing of models, training or files.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, get_args

from eval.cases import Case
from eval.injection.names import LANGUAGES, SPARE, Names, spellings, values
from eval.injection.wordings import RELATIONS, WORDINGS, Wording
from ingest.documents import content_id
from ingest.errors import UsageError
from model.training.questions import QuestionRow, answer_type, split_rows

Kind = Literal["forward-seen", "forward-new", "reverse", "two-hop", "unanswerable", "stale"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Part = Literal["trained", "held_out", "reverse"]  # of the statements in a `Wording`

MOST = 1000  # facts of one half and language: the pools of names are no larger
FACTS_OF_A_GROUP = 4  # two of its subject, two of the person or the town that the first one names

# What a group is about: relations of the subject, and of the object of the first of them.
_GROUPS: tuple[tuple[tuple[str, str], tuple[str, str]], ...] = (
    (("founder", "founded"), ("birthplace", "trade")),
    (("architect", "material"), ("birthplace", "trade")),
    (("capital", "emblem"), ("hall", "charter")),
    (("leader", "ship"), ("birthplace", "trade")),
)
_TOWNS = 60  # birthplaces, shared by all people of a language


@dataclass(frozen=True, slots=True)
class Fact:
    """One value: the relation of the subject is the object.

    For a fact of a user's document the subject is the document's id and the relation a question.
    """

    id: str
    language: str  # "en" or "zh"
    subject: str
    relation: str
    object: str
    answer_type: str  # facts of one type draw their objects from one pool
    group: str  # facts that name each other; an experiment resamples whole groups


@dataclass(frozen=True, slots=True)
class Article:
    """A running text about one subject; `facts` are the ids of the facts it states, in order."""

    language: str
    subject: str
    group: str
    facts: tuple[str, ...]
    text: str

    @property
    def id(self) -> str:
        """The hash of the text, as a document of that text has it."""
        return content_id(self.text)


@dataclass(frozen=True, slots=True)
class Probe:
    """A question, and what it is to show.

    `forward-seen` asks in a wording that training on questions uses, `forward-new` in a held-out
    one; `unanswerable` asks for what is stated nowhere; `stale` asks over a passage that says
    `case.answers` where the trained texts say `case.memory`.
    """

    case: Case
    kind: Kind
    facts: tuple[str, ...]  # ids of the facts that are needed; of `unanswerable`, the twin's
    group: str  # the cluster of an interval
    answer_type: str
    wording: int = 0  # number of the wording among those of its kind; take 0 to ask each fact once


@dataclass(frozen=True, slots=True)
class Half:
    """The facts of one side, an article about each subject, and what is asked."""

    facts: tuple[Fact, ...]
    articles: tuple[Article, ...]
    probes: tuple[Probe, ...]

    def only(self, ids: Collection[str]) -> "Half":
        """Return the half with these facts alone, such as those that a model does not know.

        Questions go with any fact they need. An article stays whole as long as it states one of
        them; write `articles` anew to leave the others unsaid.
        """
        return Half(
            tuple(fact for fact in self.facts if fact.id in ids),
            tuple(one for one in self.articles if any(fact in ids for fact in one.facts)),
            tuple(one for one in self.probes if all(fact in ids for fact in one.facts)),
        )


@dataclass(frozen=True, slots=True)
class World:
    """What is trained on and what never is; no subject is in both."""

    seed: int
    train: Half
    control: Half


# --- Building ------------------------------------------------------------------------------------


def build_world(count: int, seed: int, languages: Sequence[str] = LANGUAGES) -> World:
    """Return a world with at least so many facts in each half and language.

    Args:
        count: Facts, 1 to `MOST`, rounded up to whole groups of four.
        seed: Of everything that is drawn; another seed gives other names and other values.
        languages: Some of "en" and "zh".

    Raises:
        UsageError: The count is out of range, or there is no such language.
    """
    if not 1 <= count <= MOST:
        raise UsageError(f"A world of {count} facts cannot be built; choose 1 to {MOST}.")
    if not languages or len(set(languages)) != len(languages):
        raise UsageError("A world needs languages, each once; choose some of en and zh.")
    halves: dict[str, list[Fact]] = {"train": [], "control": []}
    probes: dict[str, list[Probe]] = {"train": [], "control": []}
    texts: dict[str, list[Article]] = {"train": [], "control": []}
    groups = -(-count // FACTS_OF_A_GROUP)
    for language in languages:
        source = _Source(language, groups, seed)
        for half in halves:
            own = _facts(source, half, groups)
            (written,) = articles(own, seed=seed)
            halves[half] += own
            texts[half] += written
            probes[half] += _probes(own, written, source)
    train, control = (
        Half(tuple(halves[half]), tuple(texts[half]), tuple(probes[half]))
        for half in ("train", "control")
    )
    return World(seed, train, control)


class _Source:
    """Where the names and values of one language come from."""

    def __init__(self, language: str, groups: int, seed: int) -> None:
        self.language = language
        self.seed = seed
        self.rng = random.Random(f"{seed}:{language}")
        self.prefix = f"{language}-{seed}"
        names = Names(language, self.rng)
        kinds = Counter(RELATIONS[_shape(number)[0][0]].subject_type for number in range(groups))
        unique: Counter[str] = Counter()  # objects of one-to-one relations
        for number in range(groups):
            for relation in (RELATIONS[name] for name in _shape(number)[0]):
                unique[relation.answer_type] += relation.one_to_one
        self._unique = {
            kind: names.draw(kind, 2 * used + SPARE) for kind, used in unique.items() if used
        }
        self._subjects = {kind: list(names.draw(kind, 2 * used)) for kind, used in kinds.items()}
        self._unused = {kind: list(pool) for kind, pool in self._unique.items()}
        self._shared = {"town": names.draw("town", _TOWNS)}

    def subject(self, kind: str) -> str:
        return self._subjects[kind].pop()

    def object(self, relation: str) -> str:
        """Draw a value: of a one-to-one relation a new one, else any of the pool."""
        kind = RELATIONS[relation].answer_type
        if RELATIONS[relation].one_to_one:
            return self._unused[kind].pop()
        return self.rng.choice(self._pool(kind))

    def other(self, fact: Fact) -> str:
        """Draw a value that the fact does not have, and no other fact if it is one-to-one."""
        if RELATIONS[fact.relation].one_to_one:
            return self.rng.choice(self._unused[fact.answer_type])
        return self.rng.choice([one for one in self._pool(fact.answer_type) if one != fact.object])

    def _pool(self, kind: str) -> tuple[str, ...]:
        return self._shared.get(kind) or values(kind, self.language)


def _shape(number: int) -> tuple[tuple[str, str], tuple[str, str]]:
    return _GROUPS[number % len(_GROUPS)]


def _facts(source: _Source, half: str, groups: int) -> list[Fact]:
    made: list[Fact] = []
    for number in range(groups):
        group = f"{source.prefix}-{half}-{number:04d}"
        first, second = _shape(number)
        subject = source.subject(RELATIONS[first[0]].subject_type)
        for relations in (first, second):
            objects = [source.object(relation) for relation in relations]
            made += (
                Fact(
                    f"{group}-{relation}",
                    source.language,
                    subject,
                    relation,
                    value,
                    RELATIONS[relation].answer_type,
                    group,
                )
                for relation, value in zip(relations, objects, strict=True)
            )
            subject = objects[0]  # the second relations are those of the first object
    return made


# --- Texts ---------------------------------------------------------------------------------------


def statements(fact: Fact, part: Part = "trained") -> tuple[str, ...]:
    """Return the fact in all wordings of one part; `reverse` is empty if it is not one-to-one.

    Raises:
        UsageError: The fact is of a document, and has no wordings of ours.
    """
    wordings: tuple[str, ...] = getattr(_wording(fact), part)
    return tuple(wording.format(s=fact.subject, o=fact.object) for wording in wordings)


def articles(
    facts: Sequence[Fact], *, versions: int = 1, seed: int = 0, reverse: bool = False
) -> tuple[tuple[Article, ...], ...]:
    """Return rounds of articles; each round has one article about each subject, in a new order.

    From one round to the next, every fact changes its wording and its place among the others:
    paraphrases make a fact extractable if they are shuffled and do not share a window (Allen-Zhu
    and Li 2023, Physics of Language Models 3.1). So a training window must not reach over the end
    of a round. More versions go on where fewer end; after as many as there are wordings, these
    return, in another order of the facts.

    Args:
        facts: Of a world, or some of them.
        versions: Rounds.
        seed: Of the wordings and of every order.
        reverse: Only one-to-one facts, with the object first.

    Raises:
        UsageError: A fact is of a document, and has no wordings of ours.
    """
    kept = [fact for fact in facts if statements(fact, "reverse" if reverse else "trained")]
    subjects: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in kept:
        subjects[fact.language, fact.subject].append(fact)
    rounds = []
    for version in range(versions):
        rng = random.Random(f"{seed}:{version}:articles")
        written = [_article(one, version, seed, reverse) for one in subjects.values()]
        rng.shuffle(written)
        rounds.append(tuple(written))
    return tuple(rounds)


def _article(facts: Sequence[Fact], version: int, seed: int, reverse: bool = False) -> Article:
    """Return an article; facts that differ in their objects alone get the same words and order."""
    order = random.Random(f"{seed}:{version}:{facts[0].id}").sample(facts, len(facts))
    sentences = []
    for fact in order:
        said = statements(fact, "reverse" if reverse else "trained")
        # A fact goes through its wordings in an order of its own.
        turns = random.Random(f"{seed}:{fact.id}").sample(said, len(said))
        sentences.append(turns[version % len(turns)])
    return Article(
        facts[0].language,
        facts[0].subject,
        facts[0].group,
        tuple(fact.id for fact in order),
        (" " if facts[0].language == "en" else "").join(sentences),
    )


def _wording(fact: Fact) -> Wording:
    wording = WORDINGS.get(fact.language, {}).get(fact.relation)
    if wording is None:
        raise UsageError(
            f"Fact {fact.id} is of a document and has no other wordings; use the articles of its"
            " world as they stand."
        )
    return wording


# --- Questions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asker:
    """Asks about facts whose articles are known."""

    by_subject: Mapping[str, Sequence[Fact]]
    texts: Mapping[str, str]  # article by subject
    source: _Source

    def about(self, fact: Fact) -> list[Probe]:
        """Return all questions about one fact."""
        wording = _wording(fact)
        gold = self.texts[fact.subject]
        right = spellings(fact.object, fact.answer_type, fact.language)
        kind = RELATIONS[fact.relation].subject_type
        back = spellings(fact.subject, kind, fact.language)
        base = Case(fact.id, fact.language, "", right, answerable=True, gold_context=gold)
        turned = replace(base, answers=back)
        nothing = replace(base, answers=(), answerable=False)
        return [
            *_asked(fact, "forward-seen", wording.asked, base),
            *_asked(fact, "forward-new", wording.asked_new, base),
            *_asked(fact, "reverse", wording.asked_reverse, turned, answer_type=kind),
            *_asked(fact, "unanswerable", wording.twins, nothing),
            *_asked(fact, "stale", wording.asked[:1], self._stale(fact, base)),
            *self._composed(fact, wording, base),
        ]

    def _stale(self, fact: Fact, base: Case) -> Case:
        """Return the case over an article that gives another value, in the same words."""
        other = self.source.other(fact)
        changed = [
            replace(one, object=other) if one == fact else one
            for one in self.by_subject[fact.subject]
        ]
        return replace(
            base,
            answers=spellings(other, fact.answer_type, fact.language),
            memory=base.answers,
            gold_context=_article(changed, 0, self.source.seed).text,
        )

    def _composed(self, fact: Fact, wording: Wording, base: Case) -> list[Probe]:
        """Return questions for what the object of the fact has itself."""
        hop = RELATIONS[fact.relation].hop
        if not hop:
            return []
        (second,) = (one for one in self.by_subject[fact.object] if one.relation == hop)
        case = replace(
            base,
            answers=spellings(second.object, second.answer_type, fact.language),
            gold_context=None,
            contexts=(self.texts[fact.subject], self.texts[fact.object]),
        )
        needed = (fact.id, second.id)
        probes = _asked(fact, "two-hop", wording.composed, case, answer_type=second.answer_type)
        return [replace(probe, facts=needed) for probe in probes]


def _asked(
    fact: Fact, kind: Kind, wordings: Sequence[str], base: Case, answer_type: str = ""
) -> list[Probe]:
    """Return the base case in each wording."""
    probes = []
    for number, wording in enumerate(wordings):
        question = wording.format(s=fact.subject, o=fact.object)
        case = replace(base, id=f"{fact.id}/{kind}/{number}", question=question)
        type_ = answer_type or fact.answer_type
        probes.append(Probe(case, kind, (fact.id,), fact.group, type_, number))
    return probes


def _probes(facts: Sequence[Fact], written: Sequence[Article], source: _Source) -> list[Probe]:
    by_subject: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_subject[fact.subject].append(fact)
    asker = _Asker(by_subject, {one.subject: one.text for one in written}, source)
    return [probe for fact in facts for probe in asker.about(fact)]


def chance(probes: Sequence[Probe]) -> dict[Kind, float]:
    """Return for each kind the accuracy of always giving the most frequent answer of the type.

    The answers are counted among the probes of that kind, language and type, so a model that knows
    no fact but has learnt how answers are distributed gets no more. It is 0 where nothing is right
    but to refuse; always refusing gets 1 there and 0 elsewhere.
    """
    found: dict[Kind, float] = {}
    ordered = sorted(probes, key=lambda probe: KINDS.index(probe.kind))
    for kind, group in groupby(ordered, key=lambda probe: probe.kind):
        answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        count = 0
        for probe in group:
            count += 1
            if probe.case.answerable:
                answers[probe.case.language, probe.answer_type][probe.case.answers[0]] += 1
        hits = sum(max(counter.values()) for counter in answers.values())
        found[kind] = hits / count
    return found


# --- Facts of a user's own documents -------------------------------------------------------------


def facts_of_documents(
    rows: Sequence[QuestionRow], *, control_share: float = 0.5, seed: int = 0
) -> World:
    """Return questions about a user's passages in the shape of a world.

    The rows are those of `model.training.questions.from_documents`: each made the round trip from a
    passage to a question and back. They have one wording, so there is only `forward-seen`. Whole
    passages are kept apart, not documents, so one document is enough; what another passage repeats
    raises the control, not the difference.

    Args:
        rows: Answerable questions with the passages that answer them.
        control_share: Least share of each language's rows that is not trained on (0..1).
        seed: Of the order in which passages go there.

    Raises:
        UsageError: There are too few passages for two halves.
    """
    alone = [replace(row, group=content_id(row.context)) for row in rows if row.answerable]
    documents = {content_id(row.context): row.group for row in rows}
    train, control = (
        _half_of_rows(part, documents) for part in split_rows(alone, control_share, seed)
    )
    if not train.facts or not control.facts:
        raise UsageError(
            f"{len(alone)} questions about {len(documents)} passages cannot be parted into facts to"
            " train on and to compare with; add documents."
        )
    return World(seed, train, control)


def _half_of_rows(rows: Sequence[QuestionRow], documents: Mapping[str, str]) -> Half:
    facts, probes, articles_ = [], [], []
    passages: dict[str, list[QuestionRow]] = defaultdict(list)
    for row in dict.fromkeys(rows):
        passages[row.group].append(row)
    for group, own in passages.items():
        made = [_fact_of_row(row, documents[group]) for row in own]
        facts += made
        probes += [_probe_of_row(*one) for one in zip(made, own, strict=True)]
        stated = tuple(fact.id for fact in made)
        articles_.append(Article(own[0].language, documents[group], group, stated, own[0].context))
    return Half(tuple(facts), tuple(articles_), tuple(probes))


def _fact_of_row(row: QuestionRow, document: str) -> Fact:
    identity = content_id(f"{row.group}\n{row.question}")[:16]
    kind = answer_type(row.question, row.answers[0], row.language) or f"{row.language} other"
    return Fact(
        identity, row.language, document, row.question, row.answers[0], kind, group=row.group
    )


def _probe_of_row(fact: Fact, row: QuestionRow) -> Probe:
    case = Case(
        f"{fact.id}/forward-seen/0",
        row.language,
        row.question,
        row.answers,
        answerable=True,
        gold_context=row.context,
    )
    return Probe(case, "forward-seen", (fact.id,), fact.group, fact.answer_type)
