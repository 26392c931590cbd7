"""The suite `position`: where among the passages the gold one stands, and how many there are.

    with open_suite(laboratory, Request(sets=("facts", "xquad"))) as suite:
        run = run_suite(suite, Path("runs/position"), limit=100)

The same question is asked over 1, 3, 5 and 10 passages, of which the gold one is the first, the one
in the middle, or the last (Liu et al. 2024, "Lost in the Middle"; the other passages here are drawn
from the same set, see `eval.suites.gold_questions`). The generator alone reads all passages in that
order; the assistant is given them in that order and makes of them what it will. Knows nothing of
settings.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, partial

from eval.chinese import say
from eval.outcomes import degenerate_outputs
from eval.pages import Block, Cell, Table
from eval.records import Run, Sample, digest
from eval.statistics import Estimate
from eval.suites.gold_questions import (
    FACT_MODULES,
    GoldQuestion,
    answer_scores,
    gold_questions,
    told,
    trial_of,
)
from eval.suites.pages import Layout, arms_of, mean_of
from eval.suites.suite import (
    Laboratory,
    Measured,
    Request,
    Suite,
    Trial,
    Variant,
    hash_code,
    is_baseline,
)
from ingest.documents import content_id
from model.prompts import build_prompt
from retrieval.search import given_passages

NAME = "position"
PROTOCOL = 1  # raise it when equal options come to mean another measurement
COUNTS = (1, 3, 5, 10)  # passages of a question
PLACES = ("first", "middle", "last")

_GENERATOR, _ASSISTANT = "generator alone", "assistant"

# A question and its passages to what was said, without baselines.
Read = Callable[[GoldQuestion, Sequence[str]], Measured]


@dataclass(frozen=True, slots=True)
class Spot:
    """How many passages there are, and which of them is the gold one."""

    count: int
    place: str

    @property
    def index(self) -> int:
        """Of the gold passage, from 0."""
        return {"first": 0, "middle": self.count // 2, "last": self.count - 1}[self.place]

    @property
    def name(self) -> str:
        """As it stands in the name of an arm."""
        return f"{self.place} of {self.count}"


SPOTS = tuple(
    Spot(count, place) for count in COUNTS for place in (PLACES if count > 1 else PLACES[:1])
)


@contextmanager
def open_suite(laboratory: Laboratory, request: Request) -> Iterator[Suite[GoldQuestion]]:
    """Yield the suite over the sets of the request, the invented facts if it names none.

    Raises:
        UsageError: A set is unknown, missing or damaged, or has no gold passages.
    """
    questions = gold_questions(request, others=max(COUNTS) - 1)
    identity = laboratory.identity() | {
        "code": hash_code(*FACT_MODULES, "suites.gold_questions", "suites.position"),
        "cases": digest([asdict(question) for question in questions]),
        "protocol": str(PROTOCOL),
    }
    readers = {_GENERATOR: _generator(laboratory), _ASSISTANT: _assistant(laboratory)}
    variants = tuple(_variant(name, read, spot) for name, read in readers.items() for spot in SPOTS)
    yield Suite(NAME, identity, tuple(map(trial_of, questions)), variants)


def _generator(laboratory: Laboratory) -> Read:
    """Return what lets the generator read all passages, in their order."""

    def read(question: GoldQuestion, texts: Sequence[str]) -> Measured:
        numbered = list(enumerate(texts, start=1))
        prompt = build_prompt(question.case.question, numbered, laboratory.prompt)
        generator = laboratory.generator()
        said = "".join(generator.stream(prompt, laboratory.decoding)).strip()
        tokens = float(generator.count_tokens(prompt.as_text()))
        scores = {**answer_scores(question.case, said), "prompt tokens": tokens}
        return Measured(said, scores, generator.heard())

    return read


def _assistant(laboratory: Laboratory) -> Read:
    """Return what asks the assistant over the passages."""
    assistant = cache(laboratory.assistant)

    def read(question: GoldQuestion, texts: Sequence[str]) -> Measured:
        case, generator = question.case, laboratory.generator()
        generator.heard()  # a prompt that failed before may not pass for this one
        passages = given_passages(texts, case.question, laboratory.encoder())
        answer = assistant().ask(case.question, passages=passages)
        said = "" if answer.status == "abstained" else answer.text
        citations = tuple(one for claim in answer.claims for one in claim.citations)
        of_gold = [one.document_id == content_id(question.gold) for one in citations]
        scores = {
            **answer_scores(case, said),
            "cites gold": sum(of_gold) / len(of_gold) if of_gold else None,
            "prompt tokens": answer.timings.get("prompt_tokens"),
        }
        ids = tuple((one.chunk.id, one.score) for one in passages)
        support = min((claim.support for claim in answer.claims), default=None)
        return Measured(answer.text, scores, generator.heard(), ids, citations, support)

    return read


def _variant(name: str, read: Read, spot: Spot) -> Variant[GoldQuestion]:
    def measure(trials: Sequence[Trial[GoldQuestion]]) -> list[Measured]:
        return [_measured(trial.subject, read, spot) for trial in trials]

    return Variant(f"{name}, {spot.name}", measure, takes=partial(_has_enough, spot))


def _has_enough(spot: Spot, trial: Trial[GoldQuestion]) -> bool:
    return len(trial.subject.others) >= spot.count - 1


def _measured(question: GoldQuestion, read: Read, spot: Spot) -> Measured:
    found = read(question, question.passages(spot.count, spot.index))
    # A first sentence is right where the gold passage is first, so there it is to be beaten.
    dull = degenerate_outputs(question.passages(max(COUNTS), 0)) if spot == SPOTS[0] else {}
    return replace(
        found, baselines={name: told(question.case, said) for name, said in dull.items()}
    )


# --- The report -----------------------------------------------------------------------------------

_RIGHT = mean_of("right", "right")


def _grids(run: Run, seed: int, language: str) -> list[Block]:
    """Return a table of places by numbers of passages for each reader, set and language."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for one in run.samples:
        groups.setdefault((one.kind, one.language), []).append(one)
    title, columns = say("{what}: right", language), ("passages", *PLACES)
    return [
        Table(
            title.format(what=say(f"{reader}, {kind}, {spoken}", language)),
            tuple(say(name, language) for name in columns),
            _grid(reader, samples, seed),
        )
        for reader in (_GENERATOR, _ASSISTANT)
        for (kind, spoken), samples in groups.items()
    ]


def _grid(reader: str, samples: Sequence[Sample], seed: int) -> tuple[tuple[Cell, ...], ...]:
    arms = arms_of(samples)

    def cell(spot: Spot) -> Cell:
        return _RIGHT.of(arms.get(f"{reader}, {spot.name}", []), seed)

    rows = [
        (str(count), *(cell(Spot(count, place)) if count > 1 else None for place in PLACES))
        for count in COUNTS
        if count > 1
    ]
    return (("1", cell(SPOTS[0]), None, None), *rows)


def _verdict(run: Run, seed: int, language: str) -> str:
    """Return how much is right in each place, over all sets and numbers above one."""
    arms = {arm: own for arm, own in arms_of(run.samples).items() if not is_baseline(arm)}

    def figure(reader: str, place: str) -> Estimate:
        names = [f"{reader}, {spot.name}" for spot in SPOTS if spot.count > 1]
        chosen = [name for name in names if f", {place} of " in name]
        return _RIGHT.of([one for name in chosen for one in arms.get(name, [])], seed)

    told_of = []
    for reader in (_GENERATOR, _ASSISTANT):
        places = [f"{say(place, language)} {figure(reader, place)}" for place in PLACES]
        told_of.append(f"{say(reader, language)} {say(', ', language).join(places)}")
    return say("Right where the gold passage stands: {told}.", language).format(
        told=say("; ", language).join(told_of)
    )


LAYOUT = Layout(
    "Where the passage stands",
    "The same questions over 1 to 10 passages. One of them holds the answer: the first, the one in"
    " the middle or the last. A reader that uses what it is given loses nothing by place or by"
    " number.",
    (
        _RIGHT,
        mean_of("f1", "F1"),
        mean_of("answered"),
        mean_of("cites gold", "citations in the gold passage"),
        mean_of("prompt tokens"),
    ),
    legend=(
        "Right: an accepted answer stands in what is said. The generator alone reads every passage"
        " in this order; the assistant chooses sentences, so its prompt stays short. What knows"
        " nothing had ten passages, the gold one first."
    ),
    extra=_grids,
    verdict=_verdict,
)
