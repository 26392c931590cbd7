"""The data of `answer`: questions over passages, each with the answer a good assistant gives.

    examples = build(rows, search=searcher.search, verifier=verifier,
                     count_tokens=generator.count_tokens, most=6000)

An example goes the way a question goes at inference: our retriever finds the passages, the verifier
weighs their sentences, `model.prompts.pack` packs the likeliest, so that training sees what
inference sees. What a passage says is changed only where the kind of example is about that. Every
answer is checked against the packed text: it stands in the passage it cites, and what is refused
stands nowhere. Everything follows from the rows, the searcher and a seed. Knows nothing of files,
of data sets by name, or of how a model is trained.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import accumulate
from typing import Literal, Protocol

from ingest.documents import Chunk, chunk_id, content_id
from ingest.errors import UsageError
from ingest.languages import question_language, split_sentences
from model.answers import Answer
from model.claims import read
from model.evidence import normalise
from model.generators import Decoding, Generator
from model.prompts import TRAINED, CountTokens, Prompt, build_prompt, completion, pack
from model.verifier import Verifier
from retrieval.passages import Passage

Kind = Literal["gold", "missing", "partial", "contradiction", "counterfactual", "unanswerable"]
Language = Literal["en", "zh"]

LONGEST_ANSWER = {"en": 100, "zh": 40}  # characters; the assistant answers shortly
SEARCHED = 12  # passages found for a question, from which the distractors are drawn
MOST_USES = 3  # times a question may return, each time over other passages or as another kind
_LEAST_POOL = 3  # answers of one type, below which none is swapped for another
_DRAWN = 24  # of these the nearest in number is taken, so that a year stays in its century


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A question about one paragraph; `answers` are spans of it, empty if it holds none."""

    question: str
    answers: tuple[str, ...]
    context: str
    group: str  # article or document: all its rows stay on one side of a split
    language: Language
    answerable: bool = True


@dataclass(frozen=True, slots=True)
class Example:
    """What a model is trained on: it reads the prompt and learns the completion."""

    prompt: str
    completion: str
    kind: Kind
    language: Language
    group: str


@dataclass(frozen=True, slots=True)
class Mixture:
    """The share of each kind of example; they need not sum to 1."""

    gold: float = 0.50  # the answer stands in one passage among distractors
    missing: float = 0.14  # only distractors: refuse
    partial: float = 0.06  # the right paragraph without the sentence that answers: refuse
    contradiction: float = 0.04  # a second passage says otherwise: name both
    counterfactual: float = 0.12  # another answer stands in its place: the passage wins
    unanswerable: float = 0.14  # asked so that the paragraph does not answer it: refuse

    def with_refusals(self, share: float) -> "Mixture":
        """Return this mixture with another share of refusals (0..1), their kinds as before."""
        refusals = self.missing + self.partial + self.unanswerable
        answers = self.gold + self.contradiction + self.counterfactual
        less, more = share / refusals, (1 - share) / answers
        return Mixture(
            gold=self.gold * more,
            missing=self.missing * less,
            partial=self.partial * less,
            contradiction=self.contradiction * more,
            counterfactual=self.counterfactual * more,
            unanswerable=self.unanswerable * less,
        )


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How examples are made."""

    mixture: Mixture = field(default_factory=Mixture)
    fewest_passages: int = 2
    most_passages: int = 6
    least_budget: int = 80  # of packed passages, in generator tokens; drawn for each example,
    most_budget: int = 224  # and mostly short: from those more is learnt in the same time
    shuffled: float = 0.25  # share whose packed passages stand in any order, not likeliest last
    simplified: float = 0.5  # share of traditional Chinese examples that are converted
    seed: int = 0


class Search(Protocol):
    """Finds passages for a question, as `retrieval.search.Searcher.search` does."""

    def __call__(self, query: str, *, top_k: int) -> Sequence[Passage]:
        """Return at most `top_k` passages, best first."""
        ...


def split_rows(
    rows: Sequence[QuestionRow], dev_share: float, seed: int = 0
) -> tuple[list[QuestionRow], list[QuestionRow]]:
    """Return (train, dev): whole groups, and no paragraph on both sides.

    Args:
        rows: All rows.
        dev_share: Least share of each language's rows that goes to dev (0..1).
        seed: Of the order in which groups go there.
    """
    dev_groups: set[str] = set()
    for language in ("en", "zh"):
        sizes = Counter(row.group for row in rows if row.language == language)
        order = sorted(sizes)
        random.Random(f"{seed}:{language}").shuffle(order)
        taken = 0
        for group in order:
            if taken >= dev_share * sizes.total():
                break
            dev_groups.add(group)
            taken += sizes[group]
    dev = [row for row in rows if row.group in dev_groups]
    on_dev = {row.context for row in dev}
    train = [row for row in rows if row.group not in dev_groups and row.context not in on_dev]
    return train, dev


def build(
    rows: Sequence[QuestionRow],
    *,
    search: Search,
    verifier: Verifier,
    count_tokens: CountTokens,
    most: int,
    options: BuildOptions | None = None,
) -> list[Example]:
    """Return at most `most` examples, half in each language, in turn, kinds mixed.

    Two calls with the same arguments return the same. Rows that give no sound example of the kind
    wanted (the answer is not in the paragraph, the retriever does not find it, it does not fit the
    budget) are passed over; if rows run out, the examples are fewer.

    Args:
        rows: Questions of both languages, or of one.
        search: The retriever over the paragraphs of these rows, and of no others.
        verifier: Weighs sentences as at inference.
        count_tokens: Counts the generator's tokens.
        most: How many.
        options: How they are made.

    Raises:
        UsageError: There are no rows.
    """
    if not rows:
        raise UsageError("there are no questions to build from; give rows with a paragraph each")
    options = options or BuildOptions()
    maker = _Maker(search, verifier, count_tokens, options, Swaps(rows))
    languages = [lang for lang in ("en", "zh") if any(row.language == lang for row in rows)]
    made = [
        _build_language(
            [row for row in rows if row.language == language],
            maker,
            most // len(languages),
            random.Random(f"{options.seed}:{language}"),
        )
        for language in languages
    ]
    longest = max(map(len, made))
    return [part[i] for i in range(longest) for part in made if i < len(part)]


def _build_language(
    rows: Sequence[QuestionRow], maker: "_Maker", most: int, rng: random.Random
) -> list[Example]:
    """Return the examples of one language: kinds in a random order, rows in another."""
    queues = {
        answerable: _Queue([row for row in rows if row.answerable is answerable], rng)
        for answerable in (True, False)
    }
    found = []
    for kind in _plan(maker.options.mixture, most, rng, has_unanswerable=bool(queues[False].rows)):
        queue = queues[kind != "unanswerable"]
        while (row := queue.next()) is not None:
            if example := maker.make(kind, row, rng):
                found.append(example)
                break
    return found


def _plan(mixture: Mixture, most: int, rng: random.Random, *, has_unanswerable: bool) -> list[Kind]:
    """Return the kinds to make, in a random order; what cannot be asked is made as missing."""
    shares: dict[Kind, float] = asdict(mixture)  # type: ignore[assignment]
    if not has_unanswerable:
        shares["missing"] += shares.pop("unanswerable")
    scale = most / sum(shares.values())
    ends = [round(end * scale) for end in accumulate(shares.values())]  # so that they fill `most`
    kinds = [
        kind
        for kind, start, end in zip(shares, [0, *ends], ends, strict=False)
        for _ in range(start, end)
    ]
    rng.shuffle(kinds)
    return kinds


class _Queue:
    """Rows in a random order, each returned at most `MOST_USES` times."""

    def __init__(self, rows: Sequence[QuestionRow], rng: random.Random) -> None:
        self.rows = list(rows)
        self._rng = rng
        self._place = len(self.rows)
        self._uses = 0

    def next(self) -> QuestionRow | None:
        """Return the next row, None when all are used up."""
        if self._place >= len(self.rows):
            if self._uses >= MOST_USES or not self.rows:
                return None
            self._rng.shuffle(self.rows)
            self._uses += 1
            self._place = 0
        self._place += 1
        return self.rows[self._place - 1]


@dataclass(frozen=True, slots=True)
class _Draft:
    """An example in the making: passages still without numbers, and what is said of them.

    `said` are (answer, the passage that holds it); `absent` must not stand in any packed text.
    """

    passages: tuple[Passage, ...]
    said: tuple[tuple[str, Passage], ...] = ()
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes one example of a kind from one row."""

    search: Search
    verifier: Verifier
    count_tokens: CountTokens
    options: BuildOptions
    swaps: "Swaps"

    def make(self, kind: Kind, row: QuestionRow, rng: random.Random) -> Example | None:
        """Return the example, None if the row gives no sound one."""
        if question_language(row.question) != row.language:
            return None  # the prompt would speak the other language
        draft = self._draft(kind, row, rng)
        return self._finish(kind, row, draft, rng) if draft and draft.passages else None

    def _draft(self, kind: Kind, row: QuestionRow, rng: random.Random) -> _Draft | None:
        """Return passages and what is to be said, before packing."""
        answer = shortest_answer(row)
        if (answer is None) == row.answerable:
            return None
        found = self.search(row.question, top_k=SEARCHED)
        own = [one for one in found if one.chunk.text in row.context]
        others = _distractors(found, row, rng)
        count = rng.randint(self.options.fewest_passages, self.options.most_passages)
        if answer is None or kind == "missing":
            kept = own[:1] if answer is None else []
            return _Draft((*kept, *others[: count - len(kept)]), absent=row.answers)
        gold = next((one for one in own if _holds(one.chunk.text, answer)), None)
        if gold is None:
            return None
        if kind in ("contradiction", "counterfactual"):
            return self._swapped(kind, row, (answer, gold), others[: count - 1], rng)
        if kind == "gold":
            return _Draft((gold, *others[: count - 1]), said=((answer, gold),))
        rest = _without(gold, row.answers)
        return _Draft((*rest, *others[: count - 1]), absent=row.answers) if rest else None

    def _swapped(
        self,
        kind: Kind,
        row: QuestionRow,
        said: tuple[str, Passage],
        others: Sequence[Passage],
        rng: random.Random,
    ) -> _Draft | None:
        """Return a draft where another answer stands in the place of the right one, or beside it.

        Of two passages that disagree none is the better one, so a faithful answer names both.
        """
        answer, gold = said
        other = self.swaps.other(row, answer, [gold, *others], rng)
        if other is None:
            return None
        if kind == "counterfactual":
            changed = _rewritten(gold, replaced(gold.chunk.text, answer, other))
            return _Draft((changed, *others), said=((other, changed),), absent=(answer,))
        rival = _rewritten(gold, replaced(_window(gold.chunk.text, answer, rng), answer, other))
        return _Draft((gold, rival, *others[:-1]), said=(said, (other, rival)))

    def _finish(
        self, kind: Kind, row: QuestionRow, draft: _Draft, rng: random.Random
    ) -> Example | None:
        """Number, weigh and pack the passages; None if the packed text belies the answer."""
        order = list(range(len(draft.passages)))
        rng.shuffle(order)  # numbers say nothing about where the answer stands
        passages = [replace(draft.passages[i], number=n) for n, i in enumerate(order, start=1)]
        numbers = {id(draft.passages[i]): n for n, i in enumerate(order, start=1)}
        evidence = self.verifier.weigh(row.question, passages)
        budget = rng.randint(self.options.least_budget, self.options.most_budget)
        packed = pack(evidence.sentences, evidence.relevance, self.count_tokens, budget)
        if rng.random() < self.options.shuffled:
            rng.shuffle(packed)
        convert = _script(row.language, simplify=rng.random() < self.options.simplified)
        packed = [(number, convert(text)) for number, text in packed]
        shown = dict(packed)
        said = [(convert(" ".join(text.split())), numbers[id(one)]) for text, one in draft.said]
        if not all(_holds(shown.get(number, ""), text) for text, number in said):
            return None
        if any(_holds(text, convert(one)) for text in shown.values() for one in draft.absent):
            return None
        places = [number for number, _ in packed]
        said.sort(key=lambda claim: places.index(claim[1]))  # as they are read
        question = convert(row.question.strip())
        reply = completion(question, said)
        if [claim.cited for claim in read(reply, places)] != [(number,) for _, number in said]:
            return None  # an answer that reads as two sentences, such as "A. A. Michelson"
        prompt = build_prompt(question, packed, TRAINED).as_text()
        return Example(prompt, reply, kind, row.language, row.group)


def shortest_answer(row: QuestionRow) -> str | None:
    """Return the shortest answer that stands in the paragraph, without closing punctuation.

    None if the row has none, or none that is short enough to be said.
    """
    spans = [answer.strip().rstrip(".,;:!?。，；：！？、 ") for answer in row.answers]
    fit = [
        span
        for span in spans
        if span and len(span) <= LONGEST_ANSWER[row.language] and _holds(row.context, span)
    ]
    return min(fit, key=len, default=None)


def _distractors(found: Sequence[Passage], row: QuestionRow, rng: random.Random) -> list[Passage]:
    """Return passages that do not hold the answer: by rank for one half, else in any order."""
    others = [
        one
        for one in found
        if one.chunk.text not in row.context
        and not any(_holds(one.chunk.text, answer) for answer in row.answers)
    ]
    if rng.random() < 0.5:
        rng.shuffle(others)
    return others


def _rewritten(passage: Passage, text: str) -> Passage:
    """Return the passage with another text, as a document of its own."""
    identity = content_id(text)
    chunk = Chunk(chunk_id(identity, 0, len(text)), identity, 0, len(text), text)
    return replace(passage, chunk=chunk)


def _without(passage: Passage, answers: Sequence[str]) -> list[Passage]:
    """Return the passage without the sentences that hold an answer, none if nothing is left."""
    text = passage.chunk.text
    kept = [
        text[start:end]
        for start, end in split_sentences(text)
        if not any(_holds(text[start:end], answer) for answer in answers)
    ]
    return [_rewritten(passage, " ".join(kept))] if kept else []


def _window(text: str, answer: str, rng: random.Random) -> str:
    """Return the first sentence that holds the answer, with a neighbour or without."""
    spans = split_sentences(text)
    first = next((i for i, (a, b) in enumerate(spans) if _holds(text[a:b], answer)), None)
    if first is None:  # a full stop inside the answer
        return text
    start = max(0, first - rng.randint(0, 1))
    end = min(len(spans) - 1, first + rng.randint(0, 1))
    return text[spans[start][0] : spans[end][1]]


# --- Answers in texts ----------------------------------------------------------------------------


@cache
def _pattern(answer: str) -> re.Pattern[str]:
    """Return what finds an answer in a text: no part of a longer word or number, any case."""
    words = r"\s+".join(re.escape(word) for word in answer.split())
    before = r"(?<![0-9A-Za-z])(?<!\d[.,])" if re.match(r"[0-9A-Za-z]", answer) else ""
    after = r"(?![0-9A-Za-z]|[.,]\d)" if re.search(r"[0-9A-Za-z]$", answer) else ""
    return re.compile(f"{before}{words}{after}", re.IGNORECASE)


def _holds(text: str, answer: str) -> bool:
    return bool(answer.strip()) and _pattern(answer.strip()).search(text) is not None


def replaced(text: str, answer: str, other: str) -> str:
    """Return the text with an answer replaced by another wherever it stands as whole words."""
    return _pattern(answer).sub(lambda _: other, text)


@cache
def _opencc() -> Callable[[str], str]:
    from opencc import OpenCC  # deferred: most commands convert nothing

    converter: Callable[[str], str] = OpenCC("t2s").convert
    return converter


def _script(language: Language, *, simplify: bool) -> Callable[[str], str]:
    """Return what turns a text into the script of the example; by words, to be shown."""
    return _opencc() if simplify and language == "zh" else str


# --- Other answers of the same type --------------------------------------------------------------

_MONTH = re.compile(
    r"\b(?:January|February|March|April|May|June|July|August|September|October|November|December)\b"
)
_YEAR = re.compile(r"(?<!\d)(?:1[0-9]|20)\d\d(?!\d)")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_CHINESE_NUMBER = re.compile(
    r"[一二三四五六七八九十百千萬万兩两]+[年月日天歲岁個个人名位次倍座條条種种]?"
)
_ASKED_NOUN = re.compile(  # "what city", but not "what was"
    r"\b(?:what|which) "
    r"(?!(?:is|are|was|were|did|do|does|has|have|had|can|could|will|would|of|the|a)\b)(\w+)"
)
_CHINESE_WHO = re.compile(r"誰|谁|何人|什麼人|什么人|哪位|哪一位")
_CHINESE_NOUN = re.compile(
    r"哪(?:一|個|个|一個|一个|座|所|間|家|條|支)?"
    r"(國家|国家|城市|大學|大学|學校|學院|公司|語言|语言|民族|宗教|朝代|機構|組織|地區|地方|國|省|市|縣|州|洲|島|河|山|球隊|隊)"
)
_SMALL = frozenset("of the de la von van and".split())


def answer_type(question: str, answer: str, language: Language) -> str | None:
    """Return a name for the kind of thing an answer is, None where it cannot be told.

    Numbers and dates are told by their form ("#%", "M Y"), names by what the question asks for.
    Two answers of one type can stand for each other without nonsense.
    """
    if _NUMBER.search(answer):
        form = _NUMBER.sub("#", _YEAR.sub("Y", _MONTH.sub("M", answer)))
        return f"{language} {form.lower()}"
    return _chinese_type(question, answer) if language == "zh" else _english_type(question, answer)


def _chinese_type(question: str, answer: str) -> str | None:
    if _CHINESE_NUMBER.fullmatch(answer):
        return f"zh {answer[-1]} {len(answer)}"
    if _CHINESE_WHO.search(question):
        is_people = answer[-1] in "人族"
        return None if is_people else f"zh who {len(answer) > 4}"
    noun = _CHINESE_NOUN.search(question)
    return f"zh {noun[1]}" if noun else None


def _english_type(question: str, answer: str) -> str | None:
    is_name = all(word[0].isupper() for word in answer.split() if word not in _SMALL)
    if not (is_name and answer[0].isupper()):
        return None
    asked = question.lower()
    if re.search(r"\bwho(?:m|se)?\b", asked):
        # One word may be a group ("deacons") or a part of a name: nothing takes its place well.
        return "en who" if len(answer.split()) > 1 else None
    if re.search(r"\bwhere\b", asked):
        return "en where"
    found = _ASKED_NOUN.search(asked)
    return f"en {found[1]}" if found else None


def _distance(one: str, other: str) -> float:
    """Return how far the first numbers of two answers are apart; 0 without numbers."""
    values = [_NUMBER.search(text) for text in (one, other)]
    first, second = [float(re.sub(r"[.,:]", "", found[0])) if found else 0.0 for found in values]
    return abs(first - second)


class Swaps:
    """For an answer another one of the same type, from other rows."""

    def __init__(self, rows: Sequence[QuestionRow]) -> None:
        """Sort the shortest answers of the rows by their type."""
        pools: dict[str, dict[str, None]] = defaultdict(dict)
        for row in rows:
            answer = shortest_answer(row)
            if answer and (kind := answer_type(row.question, answer, row.language)):
                pools[kind][answer] = None
        self._pools: Mapping[str, list[str]] = {kind: list(pool) for kind, pool in pools.items()}

    def other(
        self, row: QuestionRow, answer: str, passages: Sequence[Passage], rng: random.Random
    ) -> str | None:
        """Return an answer that is new to the question and the passages, None if there is none.

        An answer that the question names itself is not swapped: the question would be at odds
        with the passage.
        """
        kind = answer_type(row.question, answer, row.language)
        pool = self._pools.get(kind or "", [])
        if len(pool) < _LEAST_POOL or _holds(row.question, answer):
            return None
        known = [row.question, *(one.chunk.text for one in passages)]
        if any(f"·{answer}" in text or f"{answer}·" in text for text in known):
            return None  # a part of a name
        drawn = rng.sample(pool, min(len(pool), _DRAWN))
        for candidate in sorted(drawn, key=lambda one: _distance(one, answer)):
            overlaps = normalise(candidate) in normalise(answer) or normalise(answer) in normalise(
                candidate
            )
            if not overlaps and not any(_holds(text, candidate) for text in known):
                return candidate
        return None


# --- Questions for a user's own documents --------------------------------------------------------

_ASKING: Mapping[str, tuple[str, tuple[tuple[str, str], ...], str]] = {
    "en": (
        "Write one short question that the passage answers.",
        (
            (
                "The Halden lighthouse was finished in 1897. It was designed by the engineer Marta"
                " Lindqvist.",
                "Who designed the Halden lighthouse?",
            ),
        ),
        "Question:",
    ),
    "zh": (
        "根据资料写一个简短的问题，答案必须在资料中。",
        (("青石桥建成于1897年，由工程师林望舒设计，全长41米。", "青石桥是谁设计的？"),),
        "问题：",
    ),
}


class Asker(Protocol):
    """The part of `model.assistant.Assistant` that a round trip needs."""

    def ask(self, question: str, *, passages: Sequence[Passage] | None = None) -> Answer:
        """Return the verified answer, from the passages given or from its own search."""
        ...


def from_documents(
    passages: Sequence[Passage], generator: Generator, assistant: Asker
) -> Iterator[QuestionRow]:
    """Yield questions about a user's passages, only those that make the round trip.

    The generator asks about a passage and the assistant answers from that passage alone. Then it is
    asked again over the whole collection: the passage must be among those found, and the verified
    answer and the passage it cites must be the same. A mere quotation is no answer. Greedy, so two
    runs yield the same.

    Raises:
        GeneratorError: The generator failed.
    """
    for passage in passages:
        question = _asked_about(passage.chunk.text, generator)
        if not question or question_language(question) != question_language(passage.chunk.text):
            continue
        first = _stated(assistant.ask(question, passages=[replace(passage, number=1)]))
        again = assistant.ask(question)
        is_found = any(one.chunk.id == passage.chunk.id for one in again.passages)
        if first and is_found and first == _stated(again):
            text, _ = first
            yield QuestionRow(
                question,
                (text,),
                passage.chunk.text,
                passage.chunk.document_id,
                question_language(question),
            )


def _asked_about(text: str, generator: Generator) -> str:
    """Return the generator's question about a text, "" if it wrote none."""
    instruction, examples, cue = _ASKING[question_language(text)]
    prompt = Prompt(instruction, examples, text, cue, stop=("\n",))
    question = "".join(generator.stream(prompt, Decoding())).strip()
    return question if question.endswith(("?", "？")) else ""


def _stated(answer: Answer) -> tuple[str, str] | None:
    """Return the only claim of an answer and the document it cites, None for anything else."""
    if answer.status != "supported" or len(answer.claims) != 1:
        return None
    (claim,) = answer.claims
    if claim.is_quotation or not claim.citations:
        return None
    return claim.text.rstrip(".。 "), claim.citations[0].document_id
