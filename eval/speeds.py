"""How much there is to do for a world, and how fast this machine does it with a model.

    made = plan(budget, arms, work_of(world, tokenizer, texts), measure(model, tokenizer, world))

A few batches are timed, so a figure may be off by a third; a plan leaves room. Knows nothing of
what is planned with it.
"""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

from eval.arms import LESSONS, Arm
from eval.budget import Speeds, Work
from eval.facts import World
from eval.injection import InjectionOptions
from eval.injection_lessons import lesson_rows
from eval.injection_questions import STOP, asks, prompt_of, world_questions
from eval.scoring import Scorer
from model.training.lora import LoraOptions, add_lora
from model.training.tasks import CausalTask, Example

_CLOSED, _READING = Arm.parse("few-shot"), Arm.parse("rag-3")
_QUESTIONS = 16  # that are timed
_ROWS = 8  # of a training step that is timed


def work_of(
    world: World,
    facts: int,
    tokenizer: Any,  # noqa: ANN401 - any tokenizer of transformers
    *,
    general: Sequence[str],
    texts: Sequence[str],
    options: InjectionOptions,
) -> Work:
    """Return what there is to do for one seed on a world with so many facts."""

    def tokens(rows: Sequence[Example]) -> int:
        return sum(len(tokenizer(row.prompt + row.completion)["input_ids"]) for row in rows)

    lessons: dict[str, int] = {
        lesson: tokens(
            lesson_rows(world, lesson, versions=options.versions, seed=0, general=general)
        )
        for lesson in LESSONS
    }
    asked = world_questions(world, options.wordings)
    closed, reading = (sum(asks(arm, one.kind) for one in asked) for arm in (_CLOSED, _READING))
    read = sum(len(tokenizer(text)["input_ids"]) for text in texts)
    return Work(facts, lessons, closed, reading, read)


def measure(
    model: Any,  # noqa: ANN401 - any causal language model
    tokenizer: Any,  # noqa: ANN401
    world: World,
    texts: Sequence[str],
    options: InjectionOptions,
) -> Speeds:
    """Return the speeds of a model, which stays as it is."""
    rows = lesson_rows(world, "text", versions=1, seed=0)[:_ROWS]
    scorer = Scorer(model, tokenizer, batch_tokens=options.measuring.batch_tokens)
    asked = world_questions(world, 1)[:_QUESTIONS]
    articles = [article.text for article in world.train.articles[:3]]
    most = options.measuring.most_new_tokens
    seconds = {
        arm: _timed(
            lambda prompts=prompts: scorer.answers(prompts, STOP, max_new_tokens=most)  # type: ignore[misc]
        )
        / len(prompts)
        for arm, prompts in (
            (_CLOSED, [prompt_of(one, Arm.parse("base"), ()) for one in asked]),
            (_READING, [prompt_of(one, _READING, articles) for one in asked]),
        )
    }
    few = list(texts[:4])
    read = sum(len(tokenizer(text)["input_ids"]) for text in few)
    reading = _timed(lambda: scorer.drift(few, model)) if few else 0.0
    full = _rate(copy.deepcopy(model).requires_grad_(True), tokenizer, rows)
    lora = _rate(add_lora(copy.deepcopy(model), LoraOptions(16)), tokenizer, rows)
    return Speeds(full, lora, seconds[_CLOSED], seconds[_READING], 1.5 * reading / max(read, 1))


def _timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _rate(module: Any, tokenizer: Any, rows: Sequence[Example]) -> float:  # noqa: ANN401
    """Return trained tokens a second, after a first step that only warms up."""
    import torch

    task = CausalTask(module, tokenizer, rows)
    weights = [one for one in module.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.0)
    places = range(len(task.sizes()))

    def step() -> None:
        loss, weight = task.loss(places)
        (loss / weight).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    step()
    return sum(task.sizes()) / max(_timed(step), 1e-6)
