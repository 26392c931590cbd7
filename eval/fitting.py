"""Thresholds and temperatures of a judge, fitted on other rows than those they are measured on.

    judged = Judgements("fm2", labels, support, judged, groups)
    verdicts = crossed(judged, [judged], by_threshold)   # each row by the groups of other folds

Groups of dependent rows stay in one of five folds, decided by a hash of the group's name, so no
group judges itself. Knows nothing of models or files.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FOLDS = 5

Floats = NDArray[np.float64]
Use = Callable[[Floats, Floats, Floats], Floats]


@dataclass(frozen=True, slots=True)
class Judgements:
    """The judgements of one set in one language."""

    name: str
    labels: Floats  # (n,) 0 or 1
    support: Floats  # (n,) the verifier's probability
    judged: Floats  # (n,) its own verdict
    groups: Sequence[str]  # (n,) rows of one group are not independent
    claims: Sequence[str] = ()  # (n,) where something is fitted that reads them alone

    @property
    def folds(self) -> NDArray[np.intp]:
        """The fold of each row, shape (n,), by its group."""
        return np.array(
            [int(hashlib.sha256(f"fold/{g}".encode()).hexdigest(), 16) % FOLDS for g in self.groups]
        )


def best_threshold(labels: Floats, support: Floats) -> float:
    """Return the threshold with the greatest balanced accuracy, midway between two scores."""
    order = np.argsort(support)
    truth, given = labels[order], support[order]
    ones, zeros = max(truth.sum(), 1), max((1 - truth).sum(), 1)
    # Cut before row i: label 1 from there on is right, label 0 before it is right.
    right = (
        np.append(truth[::-1].cumsum()[::-1], 0) / ones + np.append(0, (1 - truth).cumsum()) / zeros
    )
    cuts = np.concatenate([[given[0] - 1e-9], (given[1:] + given[:-1]) / 2, [given[-1] + 1e-9]])
    is_cut = np.concatenate([[True], given[1:] > given[:-1], [True]])
    return float(cuts[np.where(is_cut, right, -1.0).argmax()])


def fit_temperature(labels: Floats, support: Floats) -> tuple[float, float]:
    """Return (temperature, bias) with the least log loss of sigmoid(logit / temperature + bias).

    Platt 1999, by Newton's method with a light ridge, so that separable rows have a fit as well.
    """
    x = np.stack([logit(support), np.ones_like(support)], axis=1)  # (n, 2)
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (p - labels) + 0.01 * (weights - [1.0, 0.0])
        curvature = (x * (p * (1 - p))[:, None]).T @ x + 0.01 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-8:
            break
    return float(1 / max(weights[0], 1e-3)), float(weights[1])


def calibrated(support: Floats, temperature: float, bias: float) -> Floats:
    """Return probabilities at a temperature and bias."""
    return 1 / (1 + np.exp(-(logit(support) / temperature + bias)))


def logit(support: Floats) -> Floats:
    """Return log(p / (1 - p)), kept within about +-9."""
    clipped = np.clip(support, 1e-4, 1 - 1e-4)
    return np.log(clipped / (1 - clipped))


def crossed(judged: Judgements, others: Sequence[Judgements], use: Use) -> Floats:
    """Return values for each row that were fitted on the rows of other folds, shape (n,).

    A fold without other rows to fit on keeps its support.

    Args:
        judged: The set to give values for.
        others: The sets to fit on, usually with this one among them; their rows are pooled.
        use: Maps labels and support to fit on, and support to apply to, to values.
    """
    values = judged.support.copy()
    for fold in range(FOLDS):
        labels = np.concatenate([other.labels[other.folds != fold] for other in others])
        support = np.concatenate([other.support[other.folds != fold] for other in others])
        own = judged.folds == fold
        if own.any() and len(labels):
            values[own] = use(labels, support, judged.support[own])
    return values


def by_threshold(labels: Floats, support: Floats, applied: Floats) -> Floats:
    """Fit a threshold and return the verdicts at it."""
    return (applied >= best_threshold(labels, support)).astype(np.float64)


def by_temperature(labels: Floats, support: Floats, applied: Floats) -> Floats:
    """Fit temperature and bias and return the calibrated probabilities."""
    return calibrated(applied, *fit_temperature(labels, support))
