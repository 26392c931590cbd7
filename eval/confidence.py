"""How far probabilities and confidences can be trusted: of many yes-or-no judgements at once.

Judgements are arrays of labels (0 or 1) and of probabilities of label 1, or of confidences and of
whether the answer was right. An abstention is a row whose confidence is below every other. Knows
nothing of models, files or intervals (`eval.statistics.bootstrap` gives those).

    coverage_at_risk([0.9, 0.8, 0.2], [1, 1, 0], 0.05)  # 0.667: two of three without an error
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _floats(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def balanced_accuracy(labels: ArrayLike, judged: ArrayLike) -> float:
    """Return the mean share of each label's rows that were judged right; NaN if one is absent.

    Args:
        labels: 0 or 1, shape (n,).
        judged: 0 or 1, shape (n,).
    """
    truth, given = _floats(labels), _floats(judged)
    if not 0 < truth.sum() < len(truth):
        return float("nan")
    return float((given[truth == 1].mean() + 1 - given[truth == 0].mean()) / 2)


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the chance that a row of label 1 scores above one of label 0; NaN if one is absent.

    Equal scores count half: the Mann-Whitney statistic (Hanley and McNeil 1982).
    """
    truth, given = _floats(labels), _floats(scores)
    ones = truth.sum()
    zeros = len(truth) - ones
    if not ones or not zeros:
        return float("nan")
    _, places, repeats = np.unique(given, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(repeats) - (repeats - 1) / 2)[places]  # (n,), the mean rank of ties
    return float((ranks[truth == 1].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def expected_calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = 10
) -> float:
    """Return the mean gap between probability and share of label 1, over bins of equal width.

    Bins are weighted by their rows (Guo et al. 2017, for the probability of label 1). Small sets
    overstate it: even a perfect judge has a gap in a bin of few rows.
    """
    truth, given = _floats(labels), _floats(probabilities)
    if not len(truth):
        return float("nan")
    member = np.minimum((given * bins).astype(int), bins - 1)  # (n,)
    gaps = np.bincount(member, weights=given - truth, minlength=bins)  # (bins,)
    return float(np.abs(gaps).sum() / len(truth))


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the mean squared difference of probability and label (Brier 1950)."""
    truth, given = _floats(labels), _floats(probabilities)
    return float(np.mean((given - truth) ** 2)) if len(truth) else float("nan")


def risk_coverage(confidences: ArrayLike, right: ArrayLike) -> list[tuple[float, float]]:
    """Return (coverage, risk) for every threshold worth setting, the strictest first.

    Coverage is the share answered at that threshold, risk the share of wrong among those
    (El-Yaniv and Wiener 2010). Equally confident rows are answered together.
    """
    _, coverage, risk = _curve(confidences, right)
    return list(zip(coverage.tolist(), risk.tolist(), strict=True))


def _curve(
    confidences: ArrayLike, right: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return thresholds, coverages and risks, (thresholds,) each, the strictest first."""
    sure, good = _floats(confidences), _floats(right)
    order = np.argsort(-sure, kind="stable")
    wrong = np.cumsum(1 - good[order])  # (n,)
    ends = np.flatnonzero(np.diff(sure[order], append=-np.inf))  # the last of each confidence
    return sure[order][ends], (ends + 1) / max(1, len(order)), wrong[ends] / (ends + 1)


def threshold_at_risk(confidences: ArrayLike, right: ArrayLike, most: float) -> float:
    """Return the lowest confidence from which the share of wrong is at most `most`.

    Infinite where no threshold is strict enough.

    Args:
        confidences: Shape (n,).
        right: 0 or 1, shape (n,).
        most: The highest risk allowed (0..1).
    """
    levels, _, risk = _curve(confidences, right)
    return float(min(levels[risk <= most], default=math.inf))


def coverage_at_risk(confidences: ArrayLike, right: ArrayLike, most: float) -> float:
    """Return the largest share that can be answered with at most `most` of it wrong.

    0.0 where no threshold is strict enough, NaN without rows. Chosen on the rows it is read off,
    so it flatters a little: a threshold to be used is fitted on other rows.

    Args:
        confidences: Finite, shape (n,).
        right: 0 or 1, shape (n,).
        most: The highest risk allowed (0..1), usually .01, .05 or .1.
    """
    _, coverage, risk = _curve(confidences, right)
    if not len(coverage):
        return float("nan")
    return float(max(coverage[risk <= most], default=0.0))


def area_under_risk_coverage(confidences: ArrayLike, right: ArrayLike) -> float:
    """Return AURC, the mean risk over all coverages 1/n, 2/n ... 1; smaller is better.

    Geifman, Uziel and El-Yaniv 2019, "Bias-reduced uncertainty estimation". Equally confident rows
    could be answered in any order: their risk is the mean over all orders, so it does not depend
    on that of the rows. NaN without rows.

    Args:
        confidences: Finite, shape (n,).
        right: 0 or 1, shape (n,).
    """
    sure, good = _floats(confidences), _floats(right)
    if not len(sure):
        return float("nan")
    _, level, sizes = np.unique(-sure, return_inverse=True, return_counts=True)
    share = np.bincount(level, weights=1 - good) / sizes  # (levels,), wrong among the equally sure
    wrong = np.cumsum(np.repeat(share, sizes))  # (n,), expected among the first k
    return float(np.mean(wrong / np.arange(1, len(sure) + 1)))
