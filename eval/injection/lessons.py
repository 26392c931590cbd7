"""What a model is given to learn in the injection experiment: facts become training rows.

    rows = lesson_rows(world, "qa", versions=5, seed=1)

One article is one row, so no window holds two, and a paraphrase never stands beside the text that
it repeats. Every lesson about facts says each fact `versions` times an epoch, so that lessons of
equally many epochs differ in what is said and not in how often:

    text         the articles of the world in one wording, `versions` times
    paraphrases  as many rounds of articles, each in other wordings and another order
    qa           the paraphrases, and each trained wording of each question with its answer
    documents    passages of a user's documents as they stand: a world of `facts_of_documents`
    general      texts that say nothing of the facts, about as long as the articles together

Nothing of the control half is in any of them. Knows nothing of models or tokens.
"""

import random
from collections.abc import Sequence
from itertools import accumulate, chain, cycle, takewhile

from eval.injection.arms import Lesson
from eval.injection.facts import Article, World, articles
from eval.injection.wordings import RELATIONS
from ingest.errors import UsageError
from model.prompts import PromptOptions, build_prompt
from model.training.tasks import Example

BARE = PromptOptions(examples=0, instruct=False)  # the question and the cue


def lesson_rows(
    world: World, lesson: Lesson, *, versions: int, seed: int, general: Sequence[str] = ()
) -> list[Example]:
    """Return what one epoch of a lesson consists of.

    Facts of a user's documents have no wordings of ours: their passages stand for all rounds of
    "qa", and "paraphrases" of them there are none.

    Args:
        world: Only its `train` half is used.
        lesson: What is taught.
        versions: How often each fact is said in an epoch.
        seed: Of wordings and orders.
        general: Texts to draw from; only "general" needs them.

    Raises:
        UsageError: A document's facts shall be paraphrased, or there is no general text.
    """
    if lesson in ("text", "documents"):
        return _rows(_repeated(world, versions))
    if lesson == "qa":
        told = _rounds(world, versions, seed) if has_wordings(world) else _repeated(world, versions)
        return _rows(told) + _questions(world)
    if lesson == "paraphrases":
        return _rows(_rounds(world, versions, seed))
    return _general(general, _repeated(world, versions), seed)


def has_wordings(world: World) -> bool:
    """Return whether the facts are invented ones, which can be said in several ways."""
    return all(fact.relation in RELATIONS for fact in world.train.facts)


def _rounds(world: World, versions: int, seed: int) -> list[Article]:
    rounds = articles(world.train.facts, versions=versions, seed=seed)
    return [article for one in rounds for article in one]


def _repeated(world: World, versions: int) -> list[Article]:
    return [article for _ in range(versions) for article in world.train.articles]


def _rows(told: Sequence[Article]) -> list[Example]:
    return [Example("", article.text) for article in told]


def _questions(world: World) -> list[Example]:
    """Return the trained wordings of the questions, in the form in which they are asked later."""
    return [
        Example(
            build_prompt(probe.case.question, [], BARE).as_text(),
            ("" if probe.case.language == "zh" else " ") + probe.case.answers[0],
        )
        for probe in world.train.probes
        if probe.kind == "forward-seen"
    ]


def _general(general: Sequence[str], rounds: Sequence[Article], seed: int) -> list[Example]:
    """Return general texts, each once before any returns, until they are as long as the rounds."""
    texts = [text for text in general if text.strip()]
    if not texts:
        raise UsageError("The lesson general needs texts to learn; give some, or leave it out.")
    random.Random(f"{seed}:general").shuffle(texts)
    lengths = accumulate(len(text) for text in cycle(texts))
    wanted = sum(len(article.text) for article in rounds)
    before = takewhile(lambda length: length < wanted, chain([0], lengths))
    return [Example("", text) for text, _ in zip(cycle(texts), before, strict=False)]
