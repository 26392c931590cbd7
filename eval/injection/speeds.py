"""How much there is to do for a world, and how fast this machine does it with a model.

    work = work_of(world, 64, tokenizer, bench, options)
    made = plan(budget, arms, work, measure(model, tokenizer, world, bench, options))

A few batches are timed, so a figure may be off by a third; a plan leaves room. Knows nothing of
what is planned with it.
"""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

from eval.injection.arms import LESSONS, Arm
from eval.injection.budget import Speeds, Work
from eval.injection.experiment import Bench, InjectionOptions
from eval.injection.facts import World, facts_of_documents
from eval.injection.lessons import lesson_rows
from eval.injection.questions import OWN, STOP, asks, prompt_of, world_questions
from eval.scoring import Scorer
from model.training.loop import adamw
from model.training.lora import LoraOptions, add_lora
from model.training.tasks import CausalTask, Example

_CLOSED, _READING = Arm("few-shot"), Arm("retrieved", 3)
_QUESTIONS = 16  # that are timed


def work_of(
    world: World,
    facts: int,
    tokenizer: Any,  # noqa: ANN401 - any tokenizer of transformers
    bench: Bench,
    options: InjectionOptions,
    *,
    head: float = 0.0,
) -> Work:
    """Return what there is to do for one seed on a world with so many facts.

    Args:
        world: Of so many facts of each half and language.
        facts: How many.
        tokenizer: Of the model.
        bench: What the experiment is made with.
        options: What is taught and asked.
        head: Share of a token's work that its prediction takes; prompts are trained on without.
    """

    def size(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def work(row: Example) -> float:
        return (1 - head) * size(row.prompt) + size(row.completion)

    own = facts_of_documents(bench.documents) if bench.documents else None
    share = options.teaching.replay / (1 - options.teaching.replay)
    tokens: dict[str, int] = {}
    replay: dict[str, int] = {}
    for lesson in LESSONS:
        taught = own if lesson == "documents" else world
        if taught is None or (lesson == "general" and not bench.general):
            continue
        rows = lesson_rows(taught, lesson, versions=options.versions, seed=0, general=bench.general)
        tokens[lesson] = round(sum(map(work, rows)))
        replay[lesson] = round(share * len(rows) * options.teaching.replay_tokens)
    asked = world_questions(world, options.wordings)
    closed, reading = (sum(asks(arm, one.kind) for one in asked) for arm in (_CLOSED, _READING))
    read = sum(size(text) for own_texts in bench.texts.values() for text in own_texts)
    about = len(world_questions(own, options.wordings, OWN)) if own else 0
    return Work(facts, tokens, closed, reading, about, len(bench.known), read, replay)


def head_share(model: Any) -> float:  # noqa: ANN401
    """Return the output head's share of the weights, and so about of the work at each token."""
    everything = sum(parameter.numel() for parameter in model.parameters())
    return float(model.get_output_embeddings().weight.numel() / everything)


def measure(
    model: Any,  # noqa: ANN401 - any causal language model
    tokenizer: Any,  # noqa: ANN401
    world: World,
    bench: Bench,
    options: InjectionOptions,
) -> Speeds:
    """Return the speeds of a model, which stays as it is."""
    rows = lesson_rows(world, "text", versions=1, seed=0)
    scorer = Scorer(model, tokenizer, batch_tokens=options.measuring.batch_tokens)
    most = options.measuring.most_new_tokens

    def answering(prompts: Sequence[str]) -> float:
        return _timed(lambda: scorer.answers(prompts, STOP, max_new_tokens=most)) / len(prompts)

    bare, closed, single, reading = map(answering, _prompts(world, bench))
    few = [text for own in bench.texts.values() for text in own[:2]]
    read = sum(len(tokenizer(text)["input_ids"]) for text in few)
    drift = _timed(lambda: scorer.drift(few, model)) if few else 0.0
    size = options.teaching.batch_tokens
    full = _rate(copy.deepcopy(model).requires_grad_(True), tokenizer, rows, size)
    lora = _rate(add_lora(copy.deepcopy(model), LoraOptions(16)), tokenizer, rows, size)
    return Speeds(full, lora, closed, reading, single, drift / max(read, 1), bare=bare)


def _prompts(world: World, bench: Bench) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return prompts without passages, bare and after examples, with one passage and with three."""
    everything = world_questions(world, 1)
    asked = everything[:: max(1, len(everything) // _QUESTIONS)][:_QUESTIONS]  # of both languages
    articles = [article.text for article in world.train.articles]
    given = [*articles[:2], *bench.passages[:1], *articles[2:]][:3]  # as a search finds them
    return (
        [prompt_of(one, Arm("zero-shot"), ()) for one in asked],
        [prompt_of(one, _CLOSED, ()) for one in asked],
        [prompt_of(one, _READING, given[:1]) for one in asked],
        [prompt_of(one, _READING, given) for one in asked],
    )


def _timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _rate(
    module: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    rows: Sequence[Example],
    batch_tokens: int,
) -> float:
    """Return trained tokens a second in a step as large as those of a training."""
    task = CausalTask(module, tokenizer, rows)
    sizes = task.sizes()
    count = max(1, min(len(sizes), batch_tokens // max(sizes)))
    weights = [one for one in module.parameters() if one.requires_grad]
    optimizer = adamw([{"params": weights, "lr": 0.0}])

    def step() -> None:
        loss, weight = task.loss(range(count))
        (loss / weight).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    step()  # only warms up
    return sum(sizes[:count]) / max(_timed(step), 1e-6)
