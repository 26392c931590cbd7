"""Rows become examples: balanced, in pieces that hold their answers, the same for a seed."""

from collections import Counter
from collections.abc import Sequence

import pytest

from benchmarks.train_heads import WINDOW, Mixture, Row, read_examples
from model.training.heads import ReadExample


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Return three times as many English rows as Chinese ones, two paragraphs an article."""
    rows = []
    for number in range(90):
        filler = f"The harbour of Orlen was built long ago, by hands nobody names ({number}). " * 14
        paragraph = f"{filler}Keeper{number} lit the lamp. {filler}"
        question = "Who lit the lamp?"
        rows.append(Row("en", question, f"Keeper{number}", paragraph, f"en{number // 2}"))
    for number in range(30):
        filler = f"奥伦的港口是很久以前建成的，没有人记得是谁（{number}）。" * 14
        paragraph = f"{filler}守灯人{number}点亮了灯。{filler}"
        rows.append(Row("zh", "谁点亮了灯？", f"守灯人{number}", paragraph, f"zh{number // 2}"))
    return rows


def languages(examples: Sequence[ReadExample]) -> Counter[str]:
    return Counter("en" if example.question.isascii() else "zh" for example in examples)


def test_a_language_has_at_most_so_many_times_the_examples_of_the_poorest(rows: list[Row]) -> None:
    even = languages(read_examples(rows, Mixture()))
    assert even["en"] == even["zh"] == 45  # a third has no answer
    double = languages(read_examples(rows, Mixture(spread=2.0)))
    assert double == {"en": 90, "zh": 45}
    everything = languages(read_examples(rows, Mixture(spread=10.0)))
    assert everything == {"en": 135, "zh": 45}


@pytest.mark.parametrize("shortest", [1.0, 2.0])
def test_a_piece_holds_its_answer_and_has_its_size(rows: list[Row], shortest: float) -> None:
    examples = read_examples(rows, Mixture(seed=3, shortest=shortest))
    lengths = []
    for example in examples:
        for start, end in example.answers:
            assert example.passage[start:end].startswith(("Keeper", "守灯人"))
        low, high = WINDOW["en" if example.question.isascii() else "zh"]
        assert low * shortest - 1 <= len(example.passage) <= high
        lengths.append(len(example.passage) / low)
    assert min(lengths) < 1.5 * shortest  # pieces of all sizes are drawn, short ones too
    chinese = [example for example in examples if not example.question.isascii()]
    assert sum(bool(example.answers) for example in chinese) == 30  # of 45


def test_a_seed_gives_the_same_examples_again(rows: list[Row]) -> None:
    assert read_examples(rows, Mixture(1)) == read_examples(rows, Mixture(1))
    assert read_examples(rows, Mixture(1)) != read_examples(rows, Mixture(2))
