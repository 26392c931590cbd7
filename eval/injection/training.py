"""Trains the arms of the injection experiment, and keeps weights only as long as they are needed.

    course = Course(Training("full", "qa", epochs=8), (2, 4, 8), rows, general, seed=1)
    failure = teach(base, tokenizer, course, folder, TeachingOptions())
    model = taught(base, folder, Training("full", "qa", epochs=4), seed=1)

One run of the loop serves all epochs that are asked for: the learning rate is constant after some
warm-up steps, so the weights after 4 epochs of 8 are those of a training of 4, and a frontier over
epochs costs one training instead of one each. With a rate that falls to zero, as when a model is
made to be used, each number of epochs would be a training of its own, and would end a little
better; arms are compared with each other, so all have the same disadvantage.

    FOLDER/run/            the loop's checkpoints, until the training is over
           epoch-00000004/ the trained parameters after 4 epochs, in safetensors

Knows nothing of facts or of how a model is asked.
"""

import copy
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from eval.injection.arms import Mitigation, Training
from ingest.errors import TrainingError
from model.training.checkpoints import load_checkpoint, save_checkpoint
from model.training.forgetting import (
    ForgettingOptions,
    interpolate,
    starting_weights,
)
from model.training.logs import TrainingLog
from model.training.loop import TrainingOptions, plan, train, trainable
from model.training.lora import LoraOptions, add_lora
from model.training.tasks import CausalTask, Example

_RUN = "run"
_EPOCH = "epoch"
_HALF = 0.5  # of the change that the mitigation "half" keeps
_GENTLE = 0.2  # of the usual learning rate, of the mitigation "gentle"


@dataclass(frozen=True, slots=True)
class TeachingOptions:
    """How trainings go; the same for every arm of an experiment, but for the rate."""

    full_rate: float = 5e-5  # learning rate where all weights are trained
    lora_rate: float = 5e-4
    warmup_steps: int = 10
    batch_tokens: int = 512  # padded tokens of a step: facts want many small steps
    most_tokens: int = 1024  # of a row; longer ones are left out
    replay: float = 0.25  # share of general rows, of the mitigations "replay" and "kl"
    replay_tokens: int = 64  # of such a row: about an article, so that it costs no more than one
    kl: float = 1.0  # weight of "kl", at the general rows
    l2_sp: float = 0.01
    ewc: float = 1000.0
    checkpoint_every: float = 300.0  # seconds; a killed training loses no more
    device: str = "cpu"
    precision: Literal["auto", "fp32", "bf16"] = "auto"


@dataclass(frozen=True, slots=True)
class Course:
    """One training, and after which epochs its weights are wanted."""

    training: Training  # its epochs are not looked at
    epochs: tuple[int, ...]
    rows: Sequence[Example]
    general: Sequence[str]  # texts for replay, KL and Fisher information
    seed: int


@dataclass(frozen=True, slots=True)
class Spent:
    """What weights have cost when they were kept."""

    seconds: float = 0.0  # of the steps alone
    tokens: int = 0
    parameters: int = 0  # that were trained


def forgetting_options(
    mitigation: Mitigation, options: TeachingOptions, layers: int
) -> ForgettingOptions:
    """Return what holds a model of so many layers near its base while it is trained."""
    return {
        "none": ForgettingOptions(),
        "half": ForgettingOptions(),  # afterwards: see `taught`
        "gentle": ForgettingOptions(),  # a lower rate: see `_loop_options`
        "replay": ForgettingOptions(replay=options.replay, replay_tokens=options.replay_tokens),
        # Where the facts are learnt the base is wrong, so it is followed on general text only.
        "kl": ForgettingOptions(
            replay=options.replay,
            replay_tokens=options.replay_tokens,
            kl=options.kl,
            kl_at="replay",
        ),
        "l2sp": ForgettingOptions(l2_sp=options.l2_sp),
        "ewc": ForgettingOptions(ewc=options.ewc),
        "frozen": ForgettingOptions(frozen_layers=layers // 2),
    }[mitigation]


def teach(
    base: Any,  # noqa: ANN401 - any causal language model
    tokenizer: Any,  # noqa: ANN401
    course: Course,
    folder: Path,
    options: TeachingOptions,
) -> str | None:
    """Train a copy of the base and keep its weights after each epoch that is asked for.

    Weights that are kept already are not made again, and a training that was cut off goes on.

    Returns:
        None, or why the training ended early; what it kept before that is good.

    Raises:
        TrainingError: The disk is full or not writable, or a checkpoint is damaged.
    """
    failure = None
    if not all(is_kept(folder, epoch) for epoch in course.epochs):
        try:
            _train(base, tokenizer, course, folder, options)
        except TrainingError as error:
            if error.__cause__ is not None:  # a fault of the disk, not of the training
                raise
            failure = str(error)
    shutil.rmtree(folder / _RUN, ignore_errors=True)
    return failure


def _train(
    base: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    course: Course,
    folder: Path,
    options: TeachingOptions,
) -> None:
    training = course.training
    layers = int(base.config.get_text_config().num_hidden_layers)
    task = CausalTask(
        _pupil(base, training, course.seed), tokenizer, course.rows,
        most_tokens=options.most_tokens,
        forgetting=forgetting_options(training.mitigation, options, layers),
        general=course.general,
        seed=course.seed,
    )  # fmt: skip
    plan_options = _loop_options(training, max(course.epochs), course.seed, options)
    steps = {
        len(plan(task.sizes(), replace(plan_options, epochs=epoch))): epoch
        for epoch in course.epochs
    }
    run = folder / _RUN
    loop_options = _warming_up(plan_options, max(steps), options.warmup_steps)

    def keep(line: Mapping[str, float]) -> None:
        if epoch := steps.get(int(line["step"])):
            _keep(task.module, folder, epoch, run / "log.jsonl")

    train(task, loop_options, run, on_step=keep)


def _warming_up(options: TrainingOptions, steps: int, warmup: int) -> TrainingOptions:
    """Return options whose rate at each step does not depend on how many steps there are.

    The loop counts its warm-up in shares of the run. A run that ends before the warm-up does never
    comes to the full rate, so its highest one is lower.
    """
    if warmup <= steps:
        return replace(options, warmup=warmup / steps)
    return replace(options, warmup=1.0, learning_rate=options.learning_rate * steps / warmup)


def _loop_options(
    training: Training, epochs: int, seed: int, options: TeachingOptions
) -> TrainingOptions:
    rate = options.full_rate if training.rank is None else options.lora_rate
    return TrainingOptions(
        seed=seed,
        epochs=epochs,
        batch_tokens=options.batch_tokens,
        learning_rate=rate * (_GENTLE if training.mitigation == "gentle" else 1.0),
        schedule="constant",
        checkpoint_every=options.checkpoint_every,
        device=options.device,
        precision=options.precision,
    )


def _keep(module: torch.nn.Module, folder: Path, epoch: int, log: Path) -> None:
    """Write the trained parameters with what they have cost so far, interruptions left out."""
    lines = TrainingLog(log, writes=False).lines()
    weights = {name: parameter.data for name, parameter in trainable(module).items()}
    spent = {
        "seconds": sum(line["seconds"] for line in lines),
        "tokens": int(sum(line["tokens"] for line in lines)),
        "parameters": sum(weight.numel() for weight in weights.values()),
    }
    save_checkpoint(folder, _EPOCH, epoch, weights, spent)


def _kept(folder: Path, epoch: int) -> Path:
    return folder / f"{_EPOCH}-{epoch:08}"


def is_kept(folder: Path, epoch: int) -> bool:
    """Return whether the weights after that epoch are there."""
    return _kept(folder, epoch).is_dir()


def forget_weights(folder: Path, epoch: int) -> None:
    """Remove the weights after that epoch, and the folder with the last of them."""
    shutil.rmtree(_kept(folder, epoch), ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def taught(
    base: Any,  # noqa: ANN401
    folder: Path,
    training: Training,
    *,
    seed: int,
) -> tuple[Any, Spent]:
    """Return a copy of the base with the weights that were kept after the training's epochs.

    Raises:
        TrainingError: They are missing or damaged.
    """
    tensors, state = load_checkpoint(_kept(folder, training.epochs))
    model = _pupil(base, training, seed)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        start = starting_weights(model) if training.mitigation == "half" else {}
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
    interpolate(model, start, _HALF)  # of nothing, if there is no start
    spent = Spent(float(state["seconds"]), int(state["tokens"]), int(state["parameters"]))
    return model.eval().requires_grad_(False), spent


def _pupil(base: Any, training: Training, seed: int) -> Any:  # noqa: ANN401
    """Return a copy of the base, ready to be trained."""
    model = copy.deepcopy(base).requires_grad_(True)
    if training.rank is None:
        return model
    return add_lora(model, LoraOptions(training.rank, alpha=2.0 * training.rank), seed=seed)
