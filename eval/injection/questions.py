"""What the arms of the injection experiment are asked, over which passages, and what is right.

    questions = [one for one in world_questions(world, 1) if asks(arm, one.kind)]
    prompt = prompt_of(questions[0], arm, contexts)
    scores_of(questions[0], output)

Every arm is asked the same questions in the form of `model.prompts`: without passages bare or
after a few invented examples, with passages after that module's own. Knows nothing of training,
nor of how text is generated.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from eval.cases import Case
from eval.injection.arms import Arm
from eval.injection.facts import Kind, World
from eval.injection.known_facts import fact_of
from eval.injection.lessons import BARE
from eval.metrics import contains_answer, f1
from ingest.chunking import ChunkingOptions, split
from ingest.documents import Document, chunk_id, content_id
from ingest.languages import question_language
from ingest.pipeline import Item
from model.claims import is_refusal
from model.prompts import PromptOptions, build_prompt
from retrieval.encoders import Encoder
from retrieval.search import CollectionSearcher, Searcher
from retrieval.store import Collection, open_collection

KNOWN = "known/forward"
RECOVERED = "known/recovered"  # forgotten, and asked after others of its kind were taught again
OWN = "own/"  # what kinds of questions about the user's documents begin with
_OF_TRAINED: tuple[Kind, ...] = ("unanswerable", "stale")  # of control facts they show nothing new
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
    kind: str  # "train/reverse", "control/two-hop", "own/train/forward-seen", "known/forward" ...
    cluster: str  # what is resampled as a whole


def world_questions(world: World, wordings: int, group: str = "") -> list[Question]:
    """Return the probes of both halves, each in at most so many wordings of its kind.

    Args:
        world: Invented, or of documents.
        wordings: At least 1.
        group: What their kinds begin with: `OWN` for facts of documents.
    """
    halves = {"train": world.train, "control": world.control}
    return [
        Question(probe.case, f"{group}{name}/{probe.kind}", probe.group)
        for name, half in halves.items()
        for probe in half.probes
        if probe.wording < wordings and (name == "train" or probe.kind not in _OF_TRAINED)
    ]


def known_questions(cases: Sequence[Case]) -> list[Question]:
    """Return questions about real facts, which show what is forgotten."""
    return [
        Question(replace(case, id=f"known/{case.id}"), KNOWN, f"known/{fact_of(case.id)}")
        for case in cases
    ]


def asks(arm: Arm, kind: str) -> bool:
    """Return whether an arm is asked questions of a kind.

    What was trained on invented facts is not asked about the user's documents, nor the other way
    round. A stale passage needs an arm that is given the right one; real facts have no passage, and
    are asked without.
    """
    if kind == KNOWN:
        return arm.is_closed_book
    if kind.startswith(OWN):
        return arm.training is None or arm.learns == "documents"
    if arm.learns == "documents":
        return False
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
    if question.kind in (KNOWN, RECOVERED):
        return known_prompt(case)
    is_shown = arm.asked == "few-shot"
    return closed_prompt(case.question, EXAMPLES[case.language][:SHOTS] if is_shown else ())


def known_prompt(case: Case) -> str:
    """Return the one form in which real facts are asked, whatever a model was trained on."""
    return closed_prompt(case.question, EXAMPLES[case.language][:SHOTS])


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

    def nearest(
        self, question: str, count: int, *, without: AbstractSet[str] = frozenset()
    ) -> list[Context]:
        """Return the nearest passages, best first, but none of the documents with those ids."""
        found = self.searcher.search(question, top_k=count + len(without))
        kept = [passage for passage in found if passage.chunk.document_id not in without]
        return [Context(one.chunk.id, one.chunk.text, one.score) for one in kept[:count]]


@contextmanager
def indexed(world: World, encoder: Encoder, passages: Sequence[str] = ()) -> Iterator[ArticleIndex]:
    """Open the articles of both halves in a collection of their own, gone when this is closed.

    Args:
        world: The facts.
        encoder: Embeds them.
        passages: Texts of the user's documents among which the articles have to be found.
    """
    begun = time.monotonic()
    articles = [*world.train.articles, *world.control.articles]
    texts = {article.text: article.language for article in articles}
    texts |= {text: question_language(text) for text in passages if text not in texts}
    with collected(texts, encoder) as collection:
        yield ArticleIndex(CollectionSearcher(collection), time.monotonic() - begun)


@contextmanager
def collected(texts: Mapping[str, str], encoder: Encoder) -> Iterator[Collection]:
    """Open a collection of texts, each a document of its own, gone when this is closed.

    Args:
        texts: Text to its language.
        encoder: Embeds them.
    """
    with (
        TemporaryDirectory(prefix="tether-injection-") as folder,
        open_collection(Path(folder), "texts", encoder, create=True) as collection,
    ):
        items = [_item(text, language, encoder) for text, language in texts.items()]
        collection.add_all(items, join_similar=False)
        yield collection


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
    document = Document(identity, f"text/{identity}", "", text, language, "text/plain")
    return Item(
        document.uri, identity, document, split(document, encoder.count_tokens, ChunkingOptions())
    )
