"""Metrics against worked examples and against independent implementations of the same rules."""

import math
import re
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def judgements(count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities with many ties."""
    generator = np.random.default_rng(4)
    labels = generator.integers(0, 2, count)
    scores = np.clip(
        np.round(0.5 + 0.2 * (labels - 0.5) + generator.normal(0, 0.2, count), 2), 0, 1
    )
    return labels, scores


def test_judgement_metrics_equal_those_of_scikit_learn() -> None:
    from sklearn import metrics as reference

    labels, scores = judgements()
    judged = (scores > 0.6).astype(int)
    assert metrics.auroc(labels, scores) == pytest.approx(reference.roc_auc_score(labels, scores))
    assert metrics.balanced_accuracy(labels, judged) == pytest.approx(
        reference.balanced_accuracy_score(labels, judged)
    )
    assert metrics.brier(labels, scores) == pytest.approx(
        reference.brier_score_loss(labels, scores)
    )


def test_calibration_error_by_hand() -> None:
    # Bin .0-.1: says .05, is .5 (2 rows). Bin .9-1: says .95 and 1.0, is 1 (2 rows).
    error = metrics.expected_calibration_error([0, 1, 1, 1], [0.05, 0.05, 0.95, 1.0])
    assert error == pytest.approx((2 * 0.45 + 2 * 0.025) / 4)
    honest = np.random.default_rng(1).random(50_000)
    labels = np.random.default_rng(2).random(50_000) < honest
    assert metrics.expected_calibration_error(labels, honest) < 0.01
    assert metrics.expected_calibration_error(labels, honest**3) > 0.2


def test_one_label_alone_says_nothing() -> None:
    assert math.isnan(metrics.balanced_accuracy([1, 1], [1, 0]))
    assert math.isnan(metrics.auroc([0, 0], [0.1, 0.9]))
    assert math.isnan(metrics.expected_calibration_error([], []))
    assert math.isnan(metrics.brier([], []))


def test_risk_coverage_by_hand() -> None:
    curve = metrics.risk_coverage([0.9, 0.5, 0.5, 0.1], [1, 0, 1, 0])
    assert curve == [(0.25, 0.0), (0.75, pytest.approx(1 / 3)), (1.0, 0.5)]
    assert metrics.risk_coverage([], []) == []


def test_the_threshold_at_a_risk_by_hand() -> None:
    sure, right = [0.9, 0.5, 0.5, 0.1], [1, 0, 1, 0]
    assert metrics.threshold_at_risk(sure, right, 0.0) == 0.9
    assert metrics.threshold_at_risk(sure, right, 0.34) == 0.5  # equally sure rows stay together
    assert metrics.threshold_at_risk(sure, right, 0.5) == 0.1
    assert metrics.threshold_at_risk(sure, [0, 0, 0, 0], 0.5) == math.inf
    assert metrics.threshold_at_risk([], [], 0.5) == math.inf
    # A stricter threshold may be worse: the lowest that is good enough counts.
    assert metrics.threshold_at_risk([0.9, 0.8, 0.7], [0, 1, 1], 0.34) == 0.7
