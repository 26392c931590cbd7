"""The order of training: which rows stand in which step, from a seed alone.

Rows of similar length share a micro-batch, so that little is padded, while the order of the
batches stays random. The order is a pure function of the sizes, the seed and the epoch: a resumed
run, and every process of a parallel one, works it out again instead of storing it. Knows nothing
of torch or of what a row is.

    steps = list(planned_steps([12, 90, 14, 88], batch_tokens=200, accumulate=2, epochs=1.5))
"""

import random
from collections.abc import Iterator, Sequence
from itertools import islice

Batch = list[int]  # rows of one micro-batch
_POOL = 64  # micro-batches that are sorted together: enough for little padding, still mixed


def micro_batches(sizes: Sequence[int], batch_tokens: int, seed: int, epoch: int) -> list[Batch]:
    """Return every row once, in micro-batches of at most `batch_tokens` padded tokens.

    A row that is longer than the budget makes a batch of its own.

    Args:
        sizes: Tokens of each row.
        batch_tokens: Longest row times rows of a batch, at most.
        seed: Of the order.
        epoch: Each has an order of its own.
    """
    draw = random.Random(f"{seed}/{epoch}")
    rows = list(range(len(sizes)))
    draw.shuffle(rows)
    batches: list[Batch] = []
    for pool in _pools(rows, sizes, batch_tokens):
        batches += _cut(sorted(pool, key=lambda row: sizes[row]), sizes, batch_tokens)
    draw.shuffle(batches)
    return batches


def _pools(rows: list[int], sizes: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield runs of rows that fill about `_POOL` micro-batches."""
    pool: list[int] = []
    tokens = 0
    for row in rows:
        pool.append(row)
        tokens += sizes[row]
        if tokens >= _POOL * batch_tokens:
            yield pool
            pool, tokens = [], 0
    if pool:
        yield pool


def _cut(rows: list[int], sizes: Sequence[int], batch_tokens: int) -> Iterator[Batch]:
    """Yield batches of rows that come sorted by size, so that the last is the longest."""
    batch: Batch = []
    for row in rows:
        if batch and (len(batch) + 1) * sizes[row] > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def planned_steps(
    sizes: Sequence[int],
    *,
    batch_tokens: int,
    accumulate: int = 1,
    epochs: float = 1.0,
    most_steps: int | None = None,
    seed: int = 0,
) -> Iterator[list[Batch]]:
    """Yield the micro-batches of each step, through whole epochs and the share of a last one."""
    return islice(_all_steps(sizes, batch_tokens, accumulate, epochs, seed), most_steps)


def _all_steps(
    sizes: Sequence[int], batch_tokens: int, accumulate: int, epochs: float, seed: int
) -> Iterator[list[Batch]]:
    epoch = 0
    while epoch < epochs:
        batches = micro_batches(sizes, batch_tokens, seed, epoch)
        steps = [batches[at : at + accumulate] for at in range(0, len(batches), accumulate)]
        share = min(1.0, epochs - epoch)
        yield from steps[: max(1, round(share * len(steps)))]
        epoch += 1
