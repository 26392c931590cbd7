"""Metrics against worked examples and against independent implementations of the same rules."""

import math
import re
import string
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from eval import metrics


@pytest.mark.parametrize(
    ("prediction", "answers", "expected_match", "expected_f1"),
    [
        ("The Zarnith Bridge.", ["zarnith bridge"], 1.0, 1.0),
        ("in the year 1973", ["1973"], 0.0, 2 * (1 / 3) / (1 / 3 + 1)),  # "in year 1973"
        ("blue red green", ["red blue"], 0.0, 2 * (2 / 3) / (2 / 3 + 1)),  # order is free
        ("red red", ["red"], 0.0, 2 / 3),  # a repeated word counts once
        ("Paris", ["London", "paris, France", "Rome"], 0.0, 2 / 3),  # best of several
        ("3.5 million", ["35 million"], 1.0, 1.0),  # SQuAD's rule drops the point
        ("", ["anything"], 0.0, 0.0),
        ("the", ["a"], 1.0, 1.0),  # nothing equals nothing
        ("anything", [], 0.0, 0.0),
    ],
)
def test_english_worked_examples(
    prediction: str, answers: list[str], expected_match: float, expected_f1: float
) -> None:
    assert metrics.exact_match(prediction, answers, "en") == expected_match
    assert metrics.f1(prediction, answers, "en") == pytest.approx(expected_f1)


@pytest.mark.parametrize(
    ("prediction", "answers", "expected_match", "expected_f1"),
    [
        ("《扎尼斯大桥》。", ["扎尼斯大桥"], 1.0, 1.0),
        ("建于1973年", ["1973年"], 0.0, 2 * 2 / (4 + 2)),  # 建 于 1973 年 / 1973 年
        ("年1973", ["1973年"], 0.0, 2 * 1 / (2 + 2)),  # order matters: a substring
        ("甲乙丙甲乙", ["乙丙乙"], 0.0, 2 * 2 / (5 + 3)),
        ("Rod Laver球场", ["rod laver"], 0.0, 2 * 2 / (4 + 2)),
        ("约翰·史密斯", ["约翰史密斯"], 1.0, 1.0),
        ("(大约)14,820名。", ["大约14820名"], 1.0, 1.0),
        ("3.5万", ["35万"], 0.0, 2 * 1 / 4),  # the point of a number stays
        ("。", ["，"], 1.0, 0.0),  # CMRC gives nothing for nothing
        ("伊朗", ["伊拉克", "伊朗"], 1.0, 1.0),
    ],
)
def test_chinese_worked_examples(
    prediction: str, answers: list[str], expected_match: float, expected_f1: float
) -> None:
    assert metrics.exact_match(prediction, answers, "zh") == expected_match
    assert metrics.f1(prediction, answers, "zh") == pytest.approx(expected_f1)


def squad_f1(prediction: str, gold: str) -> float:
    """SQuAD's F1, written anew from its description."""

    def words(text: str) -> list[str]:
        text = text.lower().translate(str.maketrans("", "", string.punctuation))
        return [w for w in re.sub(r"\b(a|an|the)\b", " ", text).split() if w]

    left, right = words(prediction), words(gold)
    if not left or not right:
        return float(left == right)
    rest, common = list(right), 0
    for word in left:
        if word in rest:
            rest.remove(word)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(left), common / len(right)
    return 2 * precision * recall / (precision + recall)


def cmrc_f1(prediction: str, gold: str) -> float:
    """CMRC's F1 by dynamic programming, for texts with CMRC's own punctuation only."""

    def split(text: str) -> list[str]:
        kept = "".join(
            c for c in text.lower() if c not in "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）"
        )
        return re.sub(r"([\u4e00-\u9fa5])", r" \1 ", kept).split()

    left, right = split(prediction), split(gold)
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, one in enumerate(left, 1):
        for j, other in enumerate(right, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if one == other else 0
    longest = max(map(max, table))
    if not longest:
        return 0.0
    precision, recall = longest / len(left), longest / len(right)
    return 2 * precision * recall / (precision + recall)


ENGLISH = st.text("aAthe bn.,'-3", max_size=30)
CHINESE = st.text("甲乙丙年 aB12，。《》·-", max_size=20)


@given(ENGLISH, ENGLISH)
def test_english_f1_equals_the_reference(prediction: str, gold: str) -> None:
    assert metrics.f1(prediction, [gold], "en") == pytest.approx(squad_f1(prediction, gold))


@given(CHINESE, CHINESE)
def test_chinese_f1_equals_the_reference(prediction: str, gold: str) -> None:
    assert metrics.f1(prediction, [gold], "zh") == pytest.approx(cmrc_f1(prediction, gold))


@pytest.mark.parametrize(
    ("text", "answer", "language", "expected"),
    [
        ("It was 1914, they say.", "14", "en", False),
        ("A New York-based firm", "New York", "en", True),
        ("the “Zarnith” bridge", "Zarnith bridge", "en", True),
        ("It spans a river", "the river", "en", True),
        ("something", "...", "en", False),
        ("建成于１９７３年。", "1973年", "zh", True),
        ("建成于1973年。", "73年", "zh", False),
        ("大桥由玛拉·奥恩设计", "玛拉奥恩", "zh", True),
        ("奥恩·玛拉", "玛拉奥恩", "zh", False),
    ],
)
def test_contains_answer(text: str, answer: str, language: str, expected: bool) -> None:
    assert metrics.contains_answer(text, [answer], language) is expected


def test_all_parts_of_an_answer() -> None:
    parts = [["Ada Fenn"], ["Bo Rook", "B. Rook"]]
    assert metrics.contains_all("Ada Fenn, B. Rook", parts, "en")
    assert not metrics.contains_all("B. Rook and Bo Rook", parts, "en")


@pytest.mark.parametrize(
    ("statement", "passage", "is_gold", "expected"),
    [
        ("Mara Oan", "Mara Oan built it in 1973.", True, True),
        ("built it in 1973", "Mara Oan built it in 1973.", True, True),  # its words in a row
        (
            "Its builder is Mara Oan.",
            "Mara Oan built it in 1973.",
            True,
            True,
        ),  # the answer in both
        ("Its builder is Bo Oan.", "Mara Oan built it in 1973.", True, False),
        ("Mara Oan", "Mara Oan built it in 1973.", False, False),
        ("Mara Oan", "Mara Oan built it in 1973.", None, True),
        ("in 1973", "It was built in 1973.", None, False),  # no gold answer: no evidence
    ],
)
def test_entailment_by_rule(
    statement: str, passage: str, is_gold: bool | None, expected: bool
) -> None:
    found = metrics.is_entailed(
        statement, passage, is_gold=is_gold, answers=["Mara Oan"], language="en"
    )
    assert found is expected


def test_right_is_containing_or_half_overlapping() -> None:
    assert metrics.is_right("It was built by Mara Oan in 1973.", ["Mara Oan"], "en")
    assert metrics.is_right("Oan", ["Mara Oan"], "en")
    assert not metrics.is_right("Oan", ["the engineer Mara Lucia Oan"], "en")


def test_sentence_around_covers_every_touched_sentence() -> None:
    text = "The bridge costs 3.5 million. Mara Oan built it! 它很长。很好看？End"

    def around(quote: str) -> str:
        start = text.index(quote)
        return metrics.sentence_around(text, start, start + len(quote))

    assert around("3.5") == "The bridge costs 3.5 million."
    assert around("Oan") == "Mara Oan built it!"
    assert around("million. Mara") == "The bridge costs 3.5 million. Mara Oan built it!"
    assert around("好看") == "很好看？"
    assert around("End") == "End"
    assert metrics.first_sentence("\n\n" + text) == "The bridge costs 3.5 million."
    assert metrics.first_sentence(" \n") == ""


def test_a_citation_must_prove_the_answer_from_the_gold_document() -> None:
    sentence, gold = "Mara Oan built it in 1973.", ["1973"]
    assert metrics.citation_is_correct(sentence, "d1", "d1", gold, "en")
    assert not metrics.citation_is_correct(sentence, "d2", "d1", gold, "en")
    assert not metrics.citation_is_correct("Mara Oan built it.", "d1", "d1", gold, "en")


def test_ranks() -> None:
    retrieved = ["d3", "d1", "d1", "d2"]
    assert metrics.recall_at_k(retrieved, "d1", 1) == 0.0
    assert metrics.recall_at_k(retrieved, "d1", 2) == 1.0
    assert metrics.recall_at_k(retrieved, "d2", 3) == 0.0
    assert metrics.reciprocal_rank(retrieved, "d1") == 0.5
    assert metrics.reciprocal_rank(retrieved, "d9") == 0.0


def judged(entailing: dict[int, list[set[int]]]) -> Callable[[Sequence[int], int], bool]:
    """Return a judge: claim -> the smallest sets of passages that entail it."""
    return lambda numbers, claim: any(group <= set(numbers) for group in entailing[claim])


@pytest.mark.parametrize(
    ("cited", "entailing", "recall", "precision"),
    [
        # One claim, three citations: [1] alone entails, [2] and [3] do so only together, so each
        # of them fails alone while the others still entail. Both are irrelevant.
        ([[1, 2, 3]], {0: [{1}, {2, 3}]}, 1.0, 1 / 3),
        # Only together: each is needed.
        ([[2, 3]], {0: [{2, 3}]}, 1.0, 1.0),
        # Each entails alone: neither is irrelevant, though one would do.
        ([[1, 2]], {0: [{1}, {2}]}, 1.0, 1.0),
        # A claim that is not recalled makes all its citations imprecise.
        ([[1], [2, 3], []], {0: [{1}], 1: [{4}], 2: [{1}]}, 1 / 3, 1 / 3),
        ([[1, 1]], {0: [{1}]}, 1.0, 1.0),
        ([[], []], {0: [], 1: []}, 0.0, 0.0),
    ],
)
def test_citations_by_the_rule_of_alce(
    cited: list[list[int]],
    entailing: dict[int, list[set[int]]],
    recall: float,
    precision: float,
) -> None:
    scores = metrics.citation_scores(cited, judged(entailing))
    assert scores.recall == pytest.approx(recall)
    assert scores.precision == pytest.approx(precision)


def test_an_answer_without_claims_has_no_citation_scores() -> None:
    scores = metrics.citation_scores([], judged({}))
    assert math.isnan(scores.recall) and math.isnan(scores.precision)


def test_faithfulness_is_the_share_of_supported_claims() -> None:
    assert metrics.faithfulness([True, True, False]) == pytest.approx(2 / 3)
    assert math.isnan(metrics.faithfulness([]))


def test_transfer_and_forgetting_by_hand() -> None:
    scores = [
        [0.9, 0.1, 0.2],
        [0.6, 0.8, 0.3],
        [0.5, 0.9, 0.7],  # after the last task: the first lost .4, the second gained .1
    ]
    assert metrics.backward_transfer(scores) == pytest.approx((-0.4 + 0.1) / 2)
    assert metrics.forgetting(scores) == pytest.approx((0.4 - 0.1) / 2)
    # The best of the second task came before it was learnt: forgetting sees it, transfer does not.
    other = [[0.9, 0.95, 0.2], [0.6, 0.8, 0.3], [0.5, 0.9, 0.7]]
    assert metrics.backward_transfer(other) == metrics.backward_transfer(scores)
    assert metrics.forgetting(other) == pytest.approx((0.4 + 0.05) / 2)


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_two_tasks_forget_what_they_transfer_backward(values: list[float]) -> None:
    scores = [values[:2], values[2:]]
    assert metrics.forgetting(scores) == pytest.approx(-metrics.backward_transfer(scores))


@pytest.mark.parametrize("scores", [[[0.5]], [[0.1, 0.2]], [0.1, 0.2]])
def test_a_matrix_of_tasks_is_square(scores: ArrayLike) -> None:
    with pytest.raises(ValueError, match="two at least"):
        metrics.backward_transfer(scores)
