"""What a training run will take, measured before it is started.

    guess = estimate(task, TrainingOptions(minutes=90))

Runs a few micro-batches of the loop's own plan and changes nothing. Knows nothing of what is
learnt.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model.training.batches import Batch
from model.training.loop import (
    Task,
    TrainingOptions,
    autocast,
    pick_device,
    plan,
    require_examples,
    trainable,
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, before it is started."""

    steps: int
    tokens: int  # of all steps, without padding
    padded_tokens: int
    seconds: float  # of the steps; dev evaluation comes on top
    bytes: int  # memory at the peak
    trainable: int  # parameters


def estimate(task: Task, options: TrainingOptions) -> Estimate:
    """Return what `train` would take, from a few micro-batches that change nothing.

    The longest micro-batch, for the peak of memory, and some drawn evenly are run forward and
    backward; their seconds a padded token are carried over to the rest. On a CPU the peak is this
    process's own so far.

    Raises:
        TrainingError: Too few examples, or nothing to train.
        SettingsError: There is no such device.
    """
    device = pick_device(options.device)
    sizes = list(task.sizes())
    require_examples(sizes)
    steps = plan(sizes, options)
    task.module.to(device).train()
    parameters = trainable(task.module)
    batches = [batch for step in steps for batch in step]
    sample = sorted(batches, key=lambda batch: -_padded_tokens(batch, sizes))
    sample = [sample[0], *sample[:: max(1, len(sample) // 3)][:3]]  # the first warms up
    spent = [_dry_seconds(task, batch, options, device) for batch in sample]
    task.module.zero_grad(set_to_none=True)
    padded = sum(_padded_tokens(batch, sizes) for batch in batches)
    rate = sum(spent[1:]) / sum(_padded_tokens(batch, sizes) for batch in sample[1:])
    seconds = padded * rate
    if options.minutes is not None and seconds > 60 * options.minutes:
        share = 60 * options.minutes / seconds
        seconds, padded = 60 * options.minutes, round(padded * share)
        steps = steps[: max(1, round(len(steps) * share))]
    count = sum(parameter.numel() for parameter in parameters.values())
    return Estimate(
        steps=len(steps),
        tokens=sum(sizes[row] for step in steps for batch in step for row in batch),
        padded_tokens=padded,
        seconds=seconds,
        bytes=_peak_bytes(device) + 8 * count,  # AdamW's two moments come with the first step
        trainable=count,
    )


def _padded_tokens(batch: Batch, sizes: Sequence[int]) -> int:
    return len(batch) * max(sizes[row] for row in batch)


def _dry_seconds(task: Task, batch: Batch, options: TrainingOptions, device: torch.device) -> float:
    begun = time.monotonic()
    with autocast(options, device):
        loss, _ = task.loss(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic() - begun


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
