"""Calibration and risk against scikit-learn, brute force and figures worked out by hand."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import confidence


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
    assert confidence.auroc(labels, scores) == pytest.approx(
        reference.roc_auc_score(labels, scores)
    )
    assert confidence.balanced_accuracy(labels, judged) == pytest.approx(
        reference.balanced_accuracy_score(labels, judged)
    )
    assert confidence.brier(labels, scores) == pytest.approx(
        reference.brier_score_loss(labels, scores)
    )


def test_calibration_error_by_hand() -> None:
    # Bin .0-.1: says .05, is .5 (2 rows). Bin .9-1: says .95 and 1.0, is 1 (2 rows).
    error = confidence.expected_calibration_error([0, 1, 1, 1], [0.05, 0.05, 0.95, 1.0])
    assert error == pytest.approx((2 * 0.45 + 2 * 0.025) / 4)
    honest = np.random.default_rng(1).random(50_000)
    labels = np.random.default_rng(2).random(50_000) < honest
    assert confidence.expected_calibration_error(labels, honest) < 0.01
    assert confidence.expected_calibration_error(labels, honest**3) > 0.2


def test_one_label_alone_says_nothing() -> None:
    assert math.isnan(confidence.balanced_accuracy([1, 1], [1, 0]))
    assert math.isnan(confidence.auroc([0, 0], [0.1, 0.9]))
    assert math.isnan(confidence.expected_calibration_error([], []))
    assert math.isnan(confidence.brier([], []))


def test_risk_coverage_by_hand() -> None:
    curve = confidence.risk_coverage([0.9, 0.5, 0.5, 0.1], [1, 0, 1, 0])
    assert curve == [(0.25, 0.0), (0.75, pytest.approx(1 / 3)), (1.0, 0.5)]
    assert confidence.risk_coverage([], []) == []


def test_the_threshold_at_a_risk_by_hand() -> None:
    sure, right = [0.9, 0.5, 0.5, 0.1], [1, 0, 1, 0]
    assert confidence.threshold_at_risk(sure, right, 0.0) == 0.9
    assert confidence.threshold_at_risk(sure, right, 0.34) == 0.5  # equally sure rows stay together
    assert confidence.threshold_at_risk(sure, right, 0.5) == 0.1
    assert confidence.threshold_at_risk(sure, [0, 0, 0, 0], 0.5) == math.inf
    assert confidence.threshold_at_risk([], [], 0.5) == math.inf
    # A stricter threshold may be worse: the lowest that is good enough counts.
    assert confidence.threshold_at_risk([0.9, 0.8, 0.7], [0, 1, 1], 0.34) == 0.7


def test_coverage_at_a_risk_by_hand() -> None:
    sure, right = [0.9, 0.5, 0.5, 0.1], [1, 0, 1, 0]
    assert confidence.coverage_at_risk(sure, right, 0.01) == 0.25
    assert confidence.coverage_at_risk(sure, right, 0.34) == 0.75
    assert confidence.coverage_at_risk(sure, [0, 1, 1, 1], 0.1) == 0.0
    assert math.isnan(confidence.coverage_at_risk([], [], 0.1))


def test_the_area_under_risk_and_coverage_by_hand() -> None:
    # In this order the risks are 0, 1/2, 1/3 and 2/4.
    area = confidence.area_under_risk_coverage([0.9, 0.7, 0.5, 0.1], [1, 0, 1, 0])
    assert area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert math.isnan(confidence.area_under_risk_coverage([], []))


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.9]), st.booleans()), min_size=1, max_size=5))
def test_the_area_is_the_mean_over_all_orders_of_equally_confident_rows(
    rows: list[tuple[float, bool]],
) -> None:
    areas = []
    for order in permutations(rows):
        if list(order) == sorted(order, key=lambda row: -row[0]):
            wrong = np.cumsum([not right for _, right in order])
            areas.append(float(np.mean(wrong / np.arange(1, len(rows) + 1))))
    sure, right = [row[0] for row in rows], [row[1] for row in rows]
    found = confidence.area_under_risk_coverage(sure, right)
    assert found == pytest.approx(float(np.mean(areas)))


def test_a_confidence_that_says_nothing_has_the_risk_of_all_rows() -> None:
    assert confidence.area_under_risk_coverage([0.5] * 4, [1, 1, 1, 0]) == pytest.approx(0.25)
