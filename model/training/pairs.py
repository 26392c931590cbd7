"""Verifier pairs out of question-answer rows: claims with evidence that supports them, or does not.

    for pair in build(rows, PairOptions(), seed=0): ...

Pairs come as twins, a label 1 beside a label 0, that share their claim or their evidence. What a
claim says is changed only together with the world it speaks of: for a claim C true of a text T, a
swap gives C' and T', and (C, T) and (C', T') are supported while (C', T) and (C, T') are not. All
four are equally likely to be kept, so neither the claim nor the evidence alone tells the label
(the idea of FEVER-Symmetric, Schuster et al. 2019), and the evidence has to win over memory.

Kinds: `entity`, `number` and `date` (one value for another of its type), `answer` (the right answer
to another question on the paragraph), `negation`, `relation` (subject and object change places),
`passage` (another passage of the article), `removed` (the answering sentences are gone), `question`
(the claim is a question: does the text answer it?) and `unanswerable` (people wrote the question so
that the paragraph does not answer it). Knows nothing of files, tokens or models.
"""

import hashlib
import itertools
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ingest.errors import UsageError
from ingest.languages import split_sentences
from model import evidence as ev
from model.training.statements import lightened, negated, reversed_relation, statement

KINDS: Mapping[str, float] = {
    "entity": 0.16,
    "number": 0.10,
    "date": 0.10,
    "answer": 0.14,
    "negation": 0.08,
    "relation": 0.06,
    "passage": 0.12,
    "removed": 0.10,
    "question": 0.08,
    "unanswerable": 0.06,
}


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A question on a paragraph, as question-answer sets have it."""

    question: str
    answers: tuple[str, ...]  # each a span of the paragraph; empty where it does not answer
    paragraph: str
    language: str  # "zh" or "en"
    article: str  # what related paragraphs have in common


@dataclass(frozen=True, slots=True)
class Pair:
    """A claim, a text, and whether the text supports the claim."""

    claim: str
    evidence: str
    label: int  # 1: supported, 0: not
    kind: str
    language: str
    group: str  # pairs of one group speak of the same article


@dataclass(frozen=True)
class PairOptions:
    """What is built, and how long the evidence is."""

    shares: Mapping[str, float] = field(default_factory=lambda: dict(KINDS))  # of the twins
    characters: Mapping[str, int] = field(  # most of an evidence text, about 250 encoder tokens
        default_factory=lambda: {"en": 950, "zh": 350}
    )
    declarative: float = 0.8  # of the questions that a rule can turn, those that are turned
    sentence_claims: float = 0.4  # of the claims for swaps, those taken from the text itself
    joined: float = 0.15  # of the declarative claims, those that say a second thing as well

    def __post_init__(self) -> None:
        """Refuse shares that mean nothing.

        Raises:
            UsageError: A kind is unknown, or a share is negative, or all are 0.
        """
        unknown = set(self.shares) - set(KINDS)
        if unknown or min(self.shares.values(), default=0) < 0 or not sum(self.shares.values()):
            raise UsageError(
                f"The shares {dict(self.shares)} are no proportions: give positive numbers for"
                f" {', '.join(KINDS)}."
            )


@dataclass(frozen=True, slots=True)
class Stated:
    """A claim that its evidence supports, and the sentences of the evidence it rests on."""

    claim: str
    evidence: str
    answer: str  # what the claim owes to the evidence; "" for a sentence of the evidence itself
    sentence: str  # the sentence of the evidence that the claim repeats or answers from
    row: QuestionRow


class Corpus:
    """The rows by article and paragraph, where swaps find others of the same type."""

    def __init__(self, rows: Sequence[QuestionRow]) -> None:
        """Index the rows."""
        self.rows = list(rows)
        self.questions: dict[str, list[QuestionRow]] = defaultdict(list)
        self.paragraphs: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            if row.paragraph not in self.questions:
                self.paragraphs[row.article].append(row.paragraph)
            self.questions[row.paragraph].append(row)
        self._values: dict[tuple[str, str], list[str]] = {}

    def values(self, article: str, kind: str, language: str) -> list[str]:
        """Return the values of a type in an article, each once."""
        key = (article, kind)
        if key not in self._values:
            found = (v for p in self.paragraphs[article] for v in values(p, kind, language))
            self._values[key] = list(dict.fromkeys(found))
        return self._values[key]


@dataclass(frozen=True, slots=True)
class _Means:
    """What twins are made with, beside the row that they are made of."""

    corpus: Corpus
    options: PairOptions
    generator: random.Random


def build(rows: Sequence[QuestionRow], options: PairOptions, seed: int) -> Iterator[Pair]:
    """Yield pairs without end to the variety of the rows: twin by twin, language by language.

    Any even prefix holds as many supported as unsupported pairs, of each language as many as of
    the other, and kinds near their shares. It ends when one language has no new pair to give.
    """
    languages = sorted({row.language for row in rows})
    streams = [
        _twins([row for row in rows if row.language == language], options, seed)
        for language in languages
    ]
    while streams:
        try:
            turn = [next(stream) for stream in streams]
        except StopIteration:
            return
        yield from itertools.chain.from_iterable(turn)


def _twins(
    rows: Sequence[QuestionRow], options: PairOptions, seed: int
) -> Iterator[tuple[Pair, Pair]]:
    """Yield twins of one language; each kind goes through the rows in an order of its own."""
    means = _Means(Corpus(rows), options, random.Random(seed))
    kinds = {kind: share for kind, share in options.shares.items() if share > 0}
    orders = {kind: _passes(rows, means.generator) for kind in kinds}
    made: dict[str, int] = dict.fromkeys(kinds, 0)
    seen: set[tuple[str, str]] = set()
    while kinds:
        kind = min(kinds, key=lambda k: (made[k] + 1) / kinds[k])
        for row in orders[kind]:
            twins = _MAKERS[kind](row, kind, means)
            if twins is None or any((p.claim, p.evidence) in seen for p in twins):
                continue
            seen |= {(pair.claim, pair.evidence) for pair in twins}
            made[kind] += 1
            yield twins
            break
        else:
            del kinds[kind]  # no row has one more of this kind


def _passes(rows: Sequence[QuestionRow], generator: random.Random) -> Iterator[QuestionRow]:
    """Yield the rows three times over: chance makes other pairs of them."""
    for _ in range(3):
        yield from generator.sample(rows, len(rows))


# --- Claims ---------------------------------------------------------------------------------------


def _stated(row: QuestionRow, means: _Means, own: bool | None = None) -> Stated | None:
    """Return a supported claim on a row's paragraph, with a window of it as evidence.

    The claim is a sentence of its own, or made of the question and its answer; `own` decides, or
    chance.
    """
    if not row.answers:
        return None
    options, generator = means.options, means.generator
    sentences = sentences_of(row.paragraph)
    answer = row.answers[0]
    holding = [s for s in sentences if _holds(s, answer)]
    if not holding:
        return None
    from_text = generator.random() < options.sentence_claims if own is None else own
    if from_text:
        sentence = generator.choice(sentences)
        claim = lightened(sentence, row.language, generator)
        if claim is None:
            return None
    else:
        # Of several sentences that hold the answer the one nearest to the question answers it.
        asked = set(ev.content_terms(row.question))
        sentence = max(holding, key=lambda s: len(asked & set(ev.content_terms(s))))
        turned = generator.random() < options.declarative
        claim = (statement(row.question, answer, row.language) if turned else None) or plain_claim(
            row.question, answer
        )
    evidence = window(row.paragraph, sentence, options.characters[row.language], generator)
    if evidence is None:
        return None
    if "?" not in claim and "？" not in claim and generator.random() < options.joined:
        claim = _joined(claim, evidence, sentence, row.language, generator)
    return Stated(claim, evidence, "" if from_text else answer, sentence, row)


def _joined(claim: str, evidence: str, said: str, language: str, generator: random.Random) -> str:
    """Return a claim with another sentence of the evidence: one wrong half makes it all wrong."""
    others = [lightened(s, language, generator) for s in sentences_of(evidence) if s != said]
    second = [other for other in others if other and other != claim]
    if not second:
        return claim
    halves = [claim, generator.choice(second)]
    generator.shuffle(halves)
    return ("" if language == "zh" else " ").join(halves)


def plain_claim(question: str, answer: str) -> str:
    """Return the form that serves where no rule is sure: the question, then its answer."""
    return f"{question.strip()} {answer.strip()}"


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text."""
    return [text[start:end] for start, end in split_sentences(text)]


def window(text: str, sentence: str, most: int, generator: random.Random) -> str | None:
    """Return whole sentences of a text around one of them, at most `most` characters.

    How much stands around it, and on which side, is drawn, so that neither place nor length tells
    anything. None where the sentence is longer than that.
    """
    spans = split_sentences(text)
    texts = [text[a:b] for a, b in spans]
    if sentence not in texts or len(sentence) > most:
        return None
    first = last = texts.index(sentence)
    room = generator.uniform(min(len(sentence), most), most)
    while True:
        options = [(first - 1, last)] if first else []
        options += [(first, last + 1)] if last + 1 < len(spans) else []
        fitting = [(a, b) for a, b in options if spans[b][1] - spans[a][0] <= room]
        if not fitting:
            return text[spans[first][0] : spans[last][1]]
        first, last = generator.choice(fitting)


# --- Values and swaps -----------------------------------------------------------------------------

_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DATE = {
    "en": re.compile(rf"\b(?:{_MONTHS}) \d{{1,2}}(?:, \d{{4}})?\b|\b(?:1[0-9]|20)\d\d\b(?![,.]\d)"),
    "zh": re.compile(r"\d{1,4}年(?:\d{1,2}月)?(?:\d{1,2}[日号號])?|\d{1,2}月\d{1,2}[日号號]"),
}
_NUMBER = {
    "en": re.compile(
        r"\b\d[\d,]*(?:\.\d+)?(?![\d-])"
        r"|\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|thirty|fifty)\b"
    ),
    "zh": re.compile(
        r"\d[\d,]*(?:\.\d+)?(?![\d年月日号號,.])|[二两兩三四五六七八九十](?=[个個人位次座条條种種所家])"
    ),
}
_NAME = re.compile(
    r"(?<![.!?:] )(?<!^)\b[A-Z][\w'’-]+(?: (?:of (?:the )?)?[A-Z][\w'’-]+){0,3}", re.MULTILINE
)
_NAME_TAGS = ("nr", "ns", "nt", "nz")


def values(text: str, kind: str, language: str) -> list[str]:
    """Return the entities, numbers or dates of a text, each once, as they stand there."""
    if kind == "date":
        return list(dict.fromkeys(_DATE[language].findall(text)))
    if kind == "number":
        without_dates = _DATE[language].sub(" | ", text)
        return list(dict.fromkeys(_NUMBER[language].findall(without_dates)))
    if language == "en":
        names = (match.group() for match in _NAME.finditer(text))
        return list(dict.fromkeys(n for n in names if not re.match(rf"(?:{_MONTHS}|I)\b", n)))
    import rjieba  # loads its dictionary on import: 0.4 s

    tagged: list[tuple[str, str]] = rjieba.tag(text)
    return list(dict.fromkeys(w for w, t in tagged if t.startswith(_NAME_TAGS) and len(w) > 1))


def exchange(text: str, left: str, right: str) -> str:
    """Return the text with every `left` as `right` and every `right` as `left`."""
    parts = sorted((left, right), key=len, reverse=True)  # so that "New York City" is met whole
    pattern = "|".join(_bounded(part) for part in parts)
    return re.sub(pattern, lambda match: right if match.group() == left else left, text)


def _bounded(value: str) -> str:
    """Return a pattern for a value that is no part of a longer word or number."""
    before = r"(?<![A-Za-z0-9])" if re.match(r"[A-Za-z0-9]", value) else ""
    after = r"(?![A-Za-z0-9])" if re.search(r"[A-Za-z0-9]$", value) else ""
    return f"{before}{re.escape(value)}{after}"


def _holds(text: str, value: str) -> bool:
    return re.search(_bounded(value), text) is not None


def _overlap(left: str, right: str) -> bool:
    """Tell whether one value could pass for the other: "Paris" and "Paris, France"."""
    a, b = ev.normalise(left), ev.normalise(right)
    return a in b or b in a or bool(set(ev.content_terms(a)) & set(ev.content_terms(b)))


Twins = tuple[Pair, Pair]
Maker = Callable[[QuestionRow, str, _Means], Twins | None]


def _swap(row: QuestionRow, kind: str, means: _Means) -> Twins | None:
    """Exchange one value of the claim for another of its type."""
    corpus, generator = means.corpus, means.generator
    stated = _stated(row, means)
    if stated is None:
        return None
    found = [v for v in values(stated.evidence, kind, row.language) if _holds(stated.claim, v)]
    if not found:
        return None
    value = generator.choice(found)
    near = [v for v in values(row.paragraph, kind, row.language) if not _overlap(v, value)]
    far = [v for v in corpus.values(row.article, kind, row.language) if not _overlap(v, value)]
    chosen = near if near and generator.random() < 0.6 else far  # the near ones are the harder
    candidates = [v for v in chosen if not _holds(stated.claim, v)]
    if kind in ("number", "date"):
        candidates = [v for v in candidates if _shape(v) == _shape(value)] or [
            _shifted(value, generator)
        ]
    if not candidates or value in candidates:
        return None
    return _mirrored(stated, value, generator.choice(candidates), kind, means)


def _shape(value: str) -> str:
    """Return what a number looks like: 1,200 and 3,400 are alike, 1,200 and 3 are not."""
    return re.sub(r"[a-z]+", "w", re.sub(r"\d", "0", value))


def _shifted(value: str, generator: random.Random) -> str:
    """Return a number near another: one of its later digits is changed (2008 to 2003, not 2908)."""
    digits = [i for i, char in enumerate(value) if char.isdigit()]
    if not digits:
        return value
    place = generator.choice(digits[2:] or digits[-1:])
    others = [d for d in "123456789" if d != value[place]]
    return value[:place] + generator.choice(others) + value[place + 1 :]


def _answer(row: QuestionRow, kind: str, means: _Means) -> Twins | None:
    """Give the answer to another question on the paragraph, of the same type if there is one."""
    stated = _stated(row, means, own=False)
    if stated is None:
        return None
    others = [
        other.answers[0]
        for other in means.corpus.questions[row.paragraph]
        if other.answers
        and not any(_overlap(other.answers[0], answer) for answer in row.answers)
        and not _holds(row.question, other.answers[0])
        and _type(other.answers[0]) == _type(stated.answer)
        and len(other.answers[0]) < 2.5 * len(stated.answer) + 4 < 7 * len(other.answers[0]) + 8
    ]
    if not others:
        return None
    return _mirrored(stated, stated.answer, means.generator.choice(others), kind, means)


def _type(answer: str) -> str:
    """Return the coarse type of an answer: only answers of one type are worth confusing."""
    if _DATE["en"].search(answer) or _DATE["zh"].search(answer):
        return "date"
    if ev.numbers(answer):
        return "number"
    return "name" if answer[:1].isupper() else "other"


def _mirrored(stated: Stated, value: str, other: str, kind: str, means: _Means) -> Twins | None:
    """Return two of the four pairs that exchanging two values in claim and evidence gives."""
    claim = exchange(stated.claim, value, other)
    evidence = exchange(stated.evidence, value, other)
    if claim == stated.claim or evidence == stated.evidence:
        return None
    return _square(stated, claim, evidence, kind, means.generator)


def _square(
    stated: Stated, claim: str, evidence: str, kind: str, generator: random.Random
) -> Twins:
    """Return a supported and an unsupported pair that share their claim or their evidence."""
    claims, texts = (stated.claim, claim), (stated.evidence, evidence)
    world = generator.randrange(2)  # the supported pair is of this world
    if generator.random() < 0.5:
        false = (claims[world], texts[1 - world])
    else:
        false = (claims[1 - world], texts[world])
    return _twinned(stated.row, kind, (claims[world], texts[world]), false)


def _twinned(row: QuestionRow, kind: str, true: tuple[str, str], false: tuple[str, str]) -> Twins:
    """Return two (claim, evidence), one supported and one not, as twins."""
    group = hashlib.sha256(f"{row.language}/{row.article}".encode()).hexdigest()[:16]
    return (
        Pair(*true, 1, kind, row.language, group),
        Pair(*false, 0, kind, row.language, group),
    )


def _rewritten(row: QuestionRow, kind: str, means: _Means) -> Twins | None:
    """Negate a sentence, or let its subject and object change places, in claim and text alike."""
    stated = _stated(row, means, own=True)
    if stated is None:
        return None
    rewrite = negated if kind == "negation" else reversed_relation
    claim, sentence = (
        rewrite(stated.claim, row.language),
        rewrite(stated.sentence, row.language),
    )
    # Both must have changed in the same place, else the two no longer say the same.
    if claim is None or sentence is None or not _same_change(stated, claim, sentence):
        return None
    evidence = stated.evidence.replace(stated.sentence, sentence)
    return _square(stated, claim, evidence, kind, means.generator)


def _same_change(stated: Stated, claim: str, sentence: str) -> bool:
    """Tell whether claim and sentence changed by the same words in the same surroundings."""
    return _change(stated.claim, claim) == _change(stated.sentence, sentence)


def _change(before: str, after: str) -> tuple[str, str, str]:
    """Return the character before a change, what went and what came."""
    start = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
        min(len(before), len(after)),
    )
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    return (
        before[max(0, start - 8) : start],
        before[start : len(before) - end],
        after[start : len(after) - end],
    )


# --- Evidence that does not hold it ---------------------------------------------------------------


def _other_passage(row: QuestionRow, kind: str, means: _Means) -> Twins | None:
    """Show the claim beside the passage of its article that speaks most of the same things."""
    stated = _stated(row, means)
    if stated is None:
        return None
    text = _foreign(stated.claim, row, means)
    if text is None:
        return None
    return _twinned(row, kind, (stated.claim, stated.evidence), (stated.claim, text))


def _foreign(claim: str, row: QuestionRow, means: _Means) -> str | None:
    """Return a window of another paragraph that shares words with the claim but not its answer."""
    corpus, generator = means.corpus, means.generator
    answers = [ev.normalise(answer) for answer in row.answers]
    wanted = set(ev.content_terms(claim))
    others = [p for p in corpus.paragraphs[row.article] if p != row.paragraph]
    if not others:  # an article of one paragraph: any other will do
        others = [generator.choice(corpus.rows).paragraph for _ in range(8)]
    ranked = [
        (len(wanted & set(ev.content_terms(sentence))), paragraph, sentence)
        for paragraph in generator.sample(others, min(8, len(others)))
        if paragraph != row.paragraph
        for sentence in sentences_of(paragraph)
        if not any(answer in ev.normalise(paragraph) for answer in answers)
    ]
    if not ranked:
        return None
    _, paragraph, sentence = max(ranked)
    return window(paragraph, sentence, means.options.characters[row.language], generator)


def _removed(row: QuestionRow, kind: str, means: _Means) -> Twins | None:
    """Take the sentences that hold the answer out of the evidence, or as many others."""
    stated = _stated(row, means, own=False)
    if stated is None:
        return None
    texts = _thinned(stated, means.generator)
    return texts and _twinned(row, kind, (stated.claim, texts[0]), (stated.claim, texts[1]))


def _thinned(stated: Stated, generator: random.Random) -> tuple[str, str] | None:
    """Return the evidence without some idle sentences, and without those that tell the answer."""
    sentences = sentences_of(stated.evidence)
    answers = [ev.normalise(answer) for answer in stated.row.answers]
    telling = [
        i
        for i, sentence in enumerate(sentences)
        if sentence == stated.sentence or any(a in ev.normalise(sentence) for a in answers)
    ]
    idle = [i for i in range(len(sentences)) if i not in telling]
    if len(idle) <= len(telling):
        return None
    gone = set(generator.sample(idle, len(telling)))
    joint = "" if stated.row.language == "zh" else " "
    kept = joint.join(s for i, s in enumerate(sentences) if i not in gone)
    return kept, joint.join(s for i, s in enumerate(sentences) if i not in telling)


def _question(row: QuestionRow, kind: str, means: _Means) -> Twins | None:
    """Ask whether a text answers the question: its own, or one without the answer."""
    stated = _stated(row, means, own=False)
    if stated is None:
        return None
    if means.generator.random() < 0.5:
        other = _foreign(row.question, row, means)
        texts = (stated.evidence, other) if other else None
    else:
        texts = _thinned(stated, means.generator)
    return texts and _twinned(row, kind, (row.question, texts[0]), (row.question, texts[1]))


def _unanswerable(row: QuestionRow, kind: str, means: _Means) -> Twins | None:
    """Set a question that people made unanswerable beside one that the same text answers."""
    if row.answers:
        return None
    answered = [other for other in means.corpus.questions[row.paragraph] if other.answers]
    if not answered:
        return None
    stated = _stated(means.generator.choice(answered), means, own=False)
    if stated is None:
        return None
    text = stated.evidence
    return _twinned(row, kind, (stated.row.question, text), (row.question, text))


_MAKERS: Mapping[str, Maker] = {
    **dict.fromkeys(("entity", "number", "date"), _swap),
    **dict.fromkeys(("negation", "relation"), _rewritten),
    "answer": _answer,
    "passage": _other_passage,
    "removed": _removed,
    "question": _question,
    "unanswerable": _unanswerable,
}
