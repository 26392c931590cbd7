"""What the arms of the injection experiment are asked, over which passages, and what is right.

    questions = [one for one in world_questions(world, 1) if asks(arm, one.kind)]
    prompt = prompt_of(questions[0], arm, contexts)
    scores_of(questions[0], output)

Every arm is asked the same questions in the form of `model.prompts`: without passages bare or
after a few invented examples, with passages after that module's own. Knows nothing of training,
nor of how text is generated.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from eval.arms import Arm
from eval.cases import Case
from eval.facts import World
from eval.injection_lessons import BARE
from eval.metrics import contains_answer, f1
from ingest.chunking import ChunkingOptions, split
from ingest.documents import Document, chunk_id, content_id
from ingest.pipeline import Item
from model.claims import is_refusal
from model.prompts import PromptOptions, build_prompt
from retrieval.encoders import Encoder
from retrieval.search import CollectionSearcher, Searcher
from retrieval.store import open_collection

KNOWN = "known/forward"
STOP = ("\n", "。", "？")  # an answer is one line, and no second sentence in Chinese

# The form of a short answer, shown to whoever has not learnt it; nothing of it is in any world.
EXAMPLES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "en": (
        ("Who designed the Halden lighthouse?", "Marta Lindqvist"),
        ("In which year was the Orra tea company founded?", "1897"),
        ("Where was Oskar Brennholt born?", "Sundvall"),
        ("What is the Kestrel footbridge made of?", "larch"),
        ("Who led the Vintermoor survey?", "Elin Sorvik"),
        ("What was the trade of Marta Lindqvist?", "stonemason"),
    ),
    "zh": (
        ("青石灯塔是谁设计的？", "林望舒"),
        ("云岭茶行创办于哪一年？", "1897"),
        ("沈听澜出生在哪里？", "柳溪镇"),
        ("白鹭桥是用什么建造的？", "松木"),
        ("北荒测量队是谁带领的？", "周远帆"),
        ("林望舒的职业是什么？", "石匠"),
    ),
}
SHOTS = 4  # examples in a prompt


@dataclass(frozen=True, slots=True)
class Question:
    """A case, and where its answer counts."""

    case: Case
    kind: str  # "train/reverse", "control/two-hop", "known/forward" ...
    cluster: str  # what is resampled as a whole


def world_questions(world: World, wordings: int) -> list[Question]:
    """Return the probes of both halves, each in at most so many wordings of its kind."""
    halves = {"train": world.train, "control": world.control}
    return [
        Question(probe.case, f"{name}/{probe.kind}", probe.group)
        for name, half in halves.items()
        for probe in half.probes
        if probe.wording < wordings
    ]


def known_questions(cases: Sequence[Case]) -> list[Question]:
    """Return questions about real facts, which show what is forgotten."""
    return [
        Question(replace(case, id=f"known/{case.id}"), KNOWN, f"known/{case.id}") for case in cases
    ]


def asks(arm: Arm, kind: str) -> bool:
    """Return whether an arm is asked questions of a kind.

    A stale passage needs an arm that is given the right one; real facts have no gold passage, and
    nothing is retrieved for them but what is near.
    """
    if kind == KNOWN:
        return arm.is_closed_book or arm.asked == "retrieved"
    return not kind.endswith("/stale") or arm.asked in ("oracle", "retrieved")


def prompt_of(
    question: Question, arm: Arm, contexts: Sequence[str], options: PromptOptions | None = None
) -> str:
    """Return what a model reads.

    What it is shown of the form of an answer depends on the arm, but for real facts: those are
    asked in one form without passages, so that only the weights differ in what was forgotten.

    Args:
        question: What is asked.
        arm: How.
        contexts: Texts of the passages, the best first; it comes last, where it is heeded most.
        options: Of a prompt with passages: those that an adapter was trained with.
    """
    case = question.case
    if contexts:
        numbered = list(enumerate(contexts, start=1))[::-1]
        return build_prompt(case.question, numbered, options or PromptOptions()).as_text()
    is_shown = arm.asked == "few-shot" or question.kind == KNOWN
    return closed_prompt(case.question, EXAMPLES[case.language][:SHOTS] if is_shown else ())


def closed_prompt(question: str, shots: Sequence[tuple[str, str]]) -> str:
    """Return a question without passages, after examples (question, answer) of its language."""
    turns = tuple((build_prompt(asked, [], BARE).user, said) for asked, said in shots)
    return replace(build_prompt(question, [], BARE), examples=turns).as_text()


def scores_of(question: Question, output: str) -> dict[str, float | None]:
    """Return "right", "f1" and "refused"; where a passage and the training differ, "memory" too.

    Right is whoever says an accepted answer; F1 alone would take one bridge for another. Where
    nothing is stated, right is whoever refuses. `memory` tells whether the trained answer was given
    although the passage says another.
    """
    case = question.case
    refused = float(not output.strip() or is_refusal(output))
    if not case.answerable:
        return {"right": refused, "f1": refused, "refused": refused}
    scores: dict[str, float | None] = {
        "right": float(contains_answer(output, case.answers, case.language)),
        "f1": f1(output, case.answers, case.language),
        "refused": refused,
    }
    if case.memory:
        scores["memory"] = float(contains_answer(output, case.memory, case.language))
    return scores


# --- Passages ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Context:
    """A passage as an arm is given it."""

    id: str  # of the chunk
    text: str
    score: float  # of the search, 1 where it is given


@dataclass(frozen=True, slots=True)
class ArticleIndex:
    """What finds the articles of a world; open one with `indexed`."""

    searcher: Searcher
    seconds: float  # that indexing took

    def nearest(self, question: str, count: int, *, without: Collection[str] = ()) -> list[Context]:
        """Return the nearest passages, best first, but none of the documents with those ids."""
        found = self.searcher.search(question, top_k=count + len(without))
        kept = [passage for passage in found if passage.chunk.document_id not in without]
        return [Context(one.chunk.id, one.chunk.text, one.score) for one in kept[:count]]


@contextmanager
def indexed(world: World, encoder: Encoder) -> Iterator[ArticleIndex]:
    """Open the articles of both halves in a collection of their own, gone when this is closed."""
    begun = time.monotonic()
    with (
        TemporaryDirectory(prefix="tether-injection-") as folder,
        open_collection(Path(folder), "world", encoder, create=True) as collection,
    ):
        articles = [*world.train.articles, *world.control.articles]
        items = [_item(article.text, article.language, encoder) for article in articles]
        collection.add_all(items, join_similar=False)
        yield ArticleIndex(CollectionSearcher(collection), time.monotonic() - begun)


def contexts_of(
    question: Question, arm: Arm, index: ArticleIndex | None, distractors: int
) -> list[Context]:
    """Return the passages that an arm is given for a question, the best first.

    A stale passage is given alone, so that it cannot be contradicted by another passage but only by
    what was trained.

    Args:
        question: What is asked.
        arm: How.
        index: Needed by arms that search: see `searches`.
        distractors: How many passages the arm of that name is given, all but the right ones.
    """
    gold = _gold(question.case)
    if arm.is_closed_book:
        return []
    if arm.asked == "oracle" or question.kind.endswith("/stale"):
        ids = [content_id(text) for text in gold]
        return [
            Context(chunk_id(one, 0, len(text)), text, 1.0)
            for one, text in zip(ids, gold, strict=True)
        ]
    if index is None:
        raise ValueError(f"{arm.name} searches, and there is no index")
    if arm.asked == "retrieved":
        return index.nearest(question.case.question, arm.passages)
    without = {content_id(text) for text in gold}
    return index.nearest(question.case.question, distractors, without=without)


def searches(arm: Arm) -> bool:
    """Return whether an arm needs an index."""
    return arm.asked in ("distractors", "retrieved")


def _gold(case: Case) -> tuple[str, ...]:
    """Return the texts that the answer stands in."""
    return case.contexts if case.gold_context is None else (case.gold_context,)


def _item(text: str, language: str, encoder: Encoder) -> Item:
    identity = content_id(text)
    document = Document(identity, f"world/{identity}", "", text, language, "text/plain")
    return Item(
        document.uri, identity, document, split(document, encoder.count_tokens, ChunkingOptions())
    )
