"""The order of training: every row once an epoch, little padding, the same for the same seed."""

from hypothesis import given
from hypothesis import strategies as st

from model.training.batches import micro_batches, planned_steps

SIZES = st.lists(st.integers(1, 300), min_size=1, max_size=200)


@given(sizes=SIZES, budget=st.integers(1, 1000), seed=st.integers(0, 5), epoch=st.integers(0, 5))
def test_every_row_comes_once_and_within_the_budget(
    sizes: list[int], budget: int, seed: int, epoch: int
) -> None:
    batches = micro_batches(sizes, budget, seed, epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(sizes[row] for row in batch) <= budget
    assert batches == micro_batches(sizes, budget, seed, epoch)


def test_rows_of_like_length_stand_together_and_batches_are_mixed() -> None:
    sizes = [1 + row * 7 % 300 for row in range(3000)]
    batches = micro_batches(sizes, 2048, 0, 0)
    padded = sum(len(batch) * max(sizes[row] for row in batch) for batch in batches)
    assert padded < 1.1 * sum(sizes)
    lengths = [max(sizes[row] for row in batch) for batch in batches]
    assert lengths != sorted(lengths)
    assert micro_batches(sizes, 2048, 1, 0) != batches != micro_batches(sizes, 2048, 0, 1)


def test_epochs_steps_and_shares_of_epochs() -> None:
    sizes = [10] * 40

    def count(**options: float) -> int:
        return len(list(planned_steps(sizes, batch_tokens=40, **options)))  # type: ignore[arg-type]

    assert count() == 10
    assert count(epochs=2.5) == 25
    assert count(epochs=3, accumulate=4) == 9  # the last step of an epoch is smaller
    assert count(epochs=3, most_steps=7) == 7
    assert count(epochs=0.01) == 1
    first = [batch for step in planned_steps(sizes, batch_tokens=40) for batch in step]
    assert sorted(row for batch in first for row in batch) == list(range(40))
