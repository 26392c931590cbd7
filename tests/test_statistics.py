"""Intervals and tests: known cases, scipy's, rates by simulation, and what clustering does."""

import math

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from eval.statistics import Estimate, bootstrap, holm, mcnemar, mean, paired, wilson


def test_wilson_known_cases() -> None:
    half = wilson(5, 10)  # Newcombe 1998 and every table: .2366 to .7634
    assert (round(half.low, 4), round(half.high, 4)) == (0.2366, 0.7634)
    none = wilson(0, 10)
    assert none.low == 0.0
    assert none.high == pytest.approx(0.2775, abs=1e-4)
    assert wilson(10, 10).high == 1.0
    assert math.isnan(wilson(0, 0).value)
    with pytest.raises(ValueError, match="between"):
        wilson(3, 2)


def test_singleton_clusters_agree_with_the_normal_interval() -> None:
    values = np.random.default_rng(7).normal(3.0, 2.0, 400)
    estimate = mean(list(values), list(range(400)))
    half = 1.96 * values.std() / math.sqrt(400)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert (estimate.count, estimate.clusters) == (400, 400)


def test_equal_seeds_give_equal_bounds() -> None:
    values = list(np.random.default_rng(2).random(60))
    clusters = [n // 3 for n in range(60)]
    assert mean(values, clusters, seed=1) == mean(values, clusters, seed=1)
    assert mean(values, clusters, seed=1) != mean(values, clusters, seed=2)


def test_duplicating_data_must_not_narrow_the_interval() -> None:
    values = list(np.random.default_rng(3).random(60))
    once = mean(values, list(range(60)))
    repeated = mean(values * 9, list(range(60)) * 9)
    ignoring = mean(values * 9, list(range(540)))
    assert repeated.low == pytest.approx(once.low)
    assert repeated.high == pytest.approx(once.high)
    assert ignoring.high - ignoring.low < 0.5 * (once.high - once.low)  # a third, in theory


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Clusters with a common effect: ignoring them would cover far too seldom."""
    generator = np.random.default_rng(11)
    clustered = ignoring = 0
    for _ in range(200):
        effects = generator.normal(0.0, 1.0, 40)
        values = list((effects[:, None] + generator.normal(0.0, 0.3, (40, 5))).ravel())
        labels = list(np.repeat(np.arange(40), 5))
        one = mean(values, labels, resamples=400)
        clustered += one.low <= 0.0 <= one.high
        other = mean(values, list(range(200)), resamples=400)
        ignoring += other.low <= 0.0 <= other.high
    assert 176 <= clustered <= 199  # 190 expected, a little less for a percentile bootstrap
    assert ignoring < 150


def test_unanimous_data_are_not_certain() -> None:
    all_right = mean([1.0] * 20, list(range(20)))
    assert all_right.value == 1.0
    assert all_right.low == pytest.approx(wilson(20, 20).low)
    assert all_right.low < 0.9
    same_passage_twice = mean([0.0] * 20, [n // 2 for n in range(20)])
    assert same_passage_twice.high == pytest.approx(wilson(0, 10).high)


def test_nothing_and_one_cluster_say_so() -> None:
    assert str(mean([], [])) == "–"
    lonely = mean([1.0, 0.0], ["a", "a"])
    assert str(lonely) == "0.500 [?] n=2"
    with pytest.raises(ValueError, match="one cluster"):
        mean([1.0], [])


def test_the_bootstrap_of_any_statistic_agrees_with_that_of_the_mean() -> None:
    values = np.random.default_rng(5).normal(3.0, 2.0, 300)
    clusters = [n // 3 for n in range(300)]
    any_statistic = bootstrap(lambda rows: float(values[rows].mean()), clusters)
    plain = mean(list(values), clusters)
    width = plain.high - plain.low
    assert any_statistic.value == pytest.approx(plain.value)
    assert any_statistic.low == pytest.approx(plain.low, abs=0.1 * width)
    assert any_statistic.high == pytest.approx(plain.high, abs=0.1 * width)
    assert (any_statistic.count, any_statistic.clusters) == (300, 100)


def test_resamples_without_a_value_are_left_out() -> None:
    labels = np.array([1.0, 0.0, 0.0])  # a third of the resamples or so hold no 1

    def share_if_any(rows: np.ndarray) -> float:
        found = labels[rows]
        return float(found.mean()) if found.any() else math.nan

    estimate = bootstrap(share_if_any, ["a", "b", "c"])
    assert estimate.low >= 1 / 3
    assert str(bootstrap(lambda rows: math.nan, ["a", "b"])) == "–"  # no number of the rows at all
    assert str(bootstrap(share_if_any, [])) == "–"
    assert str(bootstrap(share_if_any, ["a", "a", "a"])) == "0.333 [?] n=3"


def test_text_form() -> None:
    assert str(Estimate(0.41234, 0.391, 0.4331, 1190, 240)) == "0.412 [0.391, 0.433] n=1190"
    assert str(Estimate(41.26, 39.1, 1043.31, 7, 7)) == "41.3 [39.1, 1043] n=7"


def test_the_paired_bootstrap_agrees_with_scipy() -> None:
    generator = np.random.default_rng(21)
    left = generator.normal(0.0, 3.0, 200)
    right = left + generator.normal(0.12, 1.0, 200)  # what makes a case hard is common to both
    found = paired(list(left), list(right), list(range(200)))
    reference = stats.bootstrap(
        (right - left,), np.mean, method="percentile", n_resamples=10_000, rng=5
    ).confidence_interval
    width = reference.high - reference.low
    assert found.difference.value == pytest.approx((right - left).mean())
    assert found.difference.low == pytest.approx(reference.low, abs=0.05 * width)
    assert found.difference.high == pytest.approx(reference.high, abs=0.05 * width)
    assert found.p == pytest.approx(stats.ttest_rel(left, right).pvalue, abs=0.02)
    assert (found.difference.count, found.difference.clusters) == (200, 200)
    swapped = paired(list(right), list(left), list(range(200)))
    assert swapped.p == pytest.approx(found.p)
    assert swapped.difference.low == pytest.approx(-found.difference.high)


def test_a_paired_interval_excludes_zero_when_its_p_is_below_a_twentieth() -> None:
    generator = np.random.default_rng(8)
    seen = set()
    for _ in range(60):
        left, right = generator.normal(0, 1, 30), generator.normal(0.45, 1, 30)
        found = paired(list(left), list(right), list(range(30)), resamples=999)
        if abs(found.p - 0.05) > 0.005:  # quantiles are interpolated
            excludes = found.difference.low > 0 or found.difference.high < 0
            assert excludes is (found.p < 0.05)
            seen.add(excludes)
    assert seen == {True, False}


def test_clustered_tests_rarely_raise_false_alarms() -> None:
    """No difference, but a common effect in each cluster; ignoring it raises many alarms."""
    generator = np.random.default_rng(13)
    clustered = ignoring = 0
    for _ in range(200):
        effects = generator.normal(0.0, 1.0, 40)
        right = list((effects[:, None] + generator.normal(0.0, 0.3, (40, 5))).ravel())
        left = [0.0] * 200
        clustered += paired(left, right, list(np.repeat(np.arange(40), 5)), resamples=400).p < 0.05
        ignoring += paired(left, right, list(range(200)), resamples=400).p < 0.05
    assert clustered <= 24  # 10 expected, a little more for a percentile bootstrap
    assert ignoring > 60


def test_equal_differences_are_not_certain() -> None:
    same = paired([0.0, 1.0] * 10, [0.0, 1.0] * 10, list(range(20)))
    unseen = wilson(0, 20).high
    assert same.p == 1.0
    assert (same.difference.low, same.difference.high) == pytest.approx((-unseen, unseen))
    three = paired([0.0] * 3, [1.0] * 3, list(range(3)))
    assert three.p == 0.25  # three signs that agree: 2 / 2^3
    assert three.difference.low == pytest.approx(1 - 2 * wilson(0, 3).high)
    assert three.difference.high == 1.0
    ten = paired([0.0] * 10, [1.0] * 10, list(range(10)))
    assert ten.p == pytest.approx(2 / 2**10)


def test_paired_nothing_and_one_cluster_say_so() -> None:
    assert math.isnan(paired([], [], []).p)
    assert str(paired([], [], []).difference) == "–"
    lonely = paired([0.0, 0.0], [1.0, 1.0], ["a", "a"])
    assert (str(lonely.difference), lonely.p) == ("1.000 [?] n=2", 1.0)
    with pytest.raises(ValueError, match="each arm"):
        paired([0.0], [1.0, 1.0], ["a", "b"])


def test_equal_seeds_give_equal_paired_results() -> None:
    left, right = np.random.default_rng(4).random((2, 50))
    first, again, other = (
        paired(list(left), list(right), list(range(50)), seed=seed, resamples=500)
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_mcnemar_equals_the_binomial_test_of_scipy() -> None:
    for gained, lost in [(7, 1), (0, 0), (3, 3), (0, 5), (40, 22), (86, 150)]:
        left = [0.0] * gained + [1.0] * lost + [0.0, 1.0] * 30
        right = [1.0] * gained + [0.0] * lost + [0.0, 1.0] * 30
        expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        assert mcnemar(left, right) == pytest.approx(expected)
    assert mcnemar([0] * 7 + [1], [1] * 7 + [0]) == 2 * (1 + 8) / 2**8  # by hand
    with pytest.raises(ValueError, match="0 or 1"):
        mcnemar([0.5], [1.0])


def test_mcnemar_of_many_cases_stays_a_number() -> None:
    many = mcnemar([0.0] * 3000 + [1.0] * 3000, [1.0] * 3000 + [0.0] * 3000)
    assert many == 1.0
    assert 0.0 <= mcnemar([0.0] * 3000, [1.0] * 3000) < 1e-300


def test_holm_by_hand() -> None:
    # 4 x .005, 3 x .01, 2 x .03, and .04 may not fall below that.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, math.nan, 0.9]) == pytest.approx([1.0, math.nan, 1.0], nan_ok=True)
    assert holm([]) == []
