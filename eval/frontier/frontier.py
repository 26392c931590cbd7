"""The frontier: how much each training has learnt, against how much it has kept.

    at_matched_acquisition(evidence, level=0.4)  # retention of each training, equally much learnt

A curve is one way to train, over its epochs. Pure over evidence: knows nothing of models, of files,
or of what the numbers decide (`eval.frontier.verdict`).
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eval.frontier.evidence import KNOWN, TEXTS, Evidence
from eval.frontier.outcomes import acquisition, known_twin, wording_of
from eval.injection.arms import Arm
from eval.resampling import Floats, Quantity
from ingest.errors import UsageError

Keeps = Literal["retention", "drift"]  # old facts still answered, or nats moved away from the base


@dataclass(frozen=True, slots=True)
class Stage:
    """A training after so many epochs."""

    epochs: int
    learnt: Quantity  # acquisition in the wording that counts
    kept: Quantity  # of the side that was asked for


@dataclass(frozen=True, slots=True)
class Curve:
    """One way to train, over its epochs: what is learnt against what is kept."""

    name: str  # for instance "lora16-qa-replay"
    stages: tuple[Stage, ...]  # by epochs, the most last


def curves(evidence: Evidence, keeps: Keeps, language: str = "") -> tuple[Curve, ...]:
    """Return the curve of each training on invented facts that was asked without passages."""
    grouped: dict[str, list[Arm]] = defaultdict(list)
    for arm in evidence.arms:
        if arm.training is not None and arm.is_closed_book and arm.learns == "facts":
            grouped[arm.training.name.rpartition("-e")[0]].append(arm)
    return tuple(
        Curve(name, tuple(_stage(evidence, arm, keeps, language) for arm in _by_epochs(own)))
        for name, own in grouped.items()
    )


def _by_epochs(arms: Sequence[Arm]) -> list[Arm]:
    return sorted(arms, key=lambda arm: arm.training.epochs if arm.training else 0)


def _stage(evidence: Evidence, arm: Arm, keeps: Keeps, language: str) -> Stage:
    learnt = acquisition(evidence, arm, wording_of(evidence), language)
    return Stage(
        arm.training.epochs if arm.training else 0, learnt, kept(evidence, arm, keeps, language)
    )


def kept(evidence: Evidence, arm: Arm, keeps: Keeps, language: str = "") -> Quantity:
    """Return retention of known facts (minus what the base had), or minus the drift on texts."""
    if keeps == "drift":
        texts = [kind for kind in TEXTS if kind.endswith(language)]
        return -evidence.mean(arm, texts, "", "kl")
    base = known_twin(evidence, arm)
    if base is None:
        return evidence.draws.nothing()
    return evidence.difference(arm, base, [KNOWN], language)


@dataclass(frozen=True, slots=True)
class Matched:
    """What a training has kept where it has learnt so much."""

    name: str
    kept: Quantity
    reached: float  # share of the resamples in which it learnt so much at all


def at_matched_acquisition(
    evidence: Evidence, level: float, *, keeps: Keeps = "retention", language: str = ""
) -> dict[str, Matched]:
    """Return what each training keeps at one level of acquisition, by its name.

    Comparing after equally many steps would praise whatever has merely learnt less. So each curve
    begins with the untrained model, which has learnt nothing and lost nothing, goes on straight
    from one epoch count to the next, and is read off where it first reaches the level; each
    resample has curves of its own. NaN for a training that never gets there.

    Args:
        evidence: All samples.
        level: Acquisition, above 0 and at most 1.
        keeps: What is read off.
        language: One language, or "" for all.

    Raises:
        UsageError: The level is out of range.
    """
    if not 0 < level <= 1:
        raise UsageError(f"No acquisition is {level:g}; give a level above 0 and at most 1.")
    return {curve.name: _at(evidence, curve, level) for curve in curves(evidence, keeps, language)}


def _at(evidence: Evidence, curve: Curve, level: float) -> Matched:
    stages = [one for one in curve.stages if one.learnt.is_known and one.kept.is_known]
    if not stages:
        return Matched(curve.name, evidence.draws.nothing(), 0.0)
    learnt = _columns([one.learnt for one in stages])
    found = crossing(learnt, _columns([one.kept for one in stages]), level)
    clusters = min(min(one.learnt.clusters, one.kept.clusters) for one in stages)
    count = max(one.kept.count for one in stages)
    quantity = Quantity(float(found[0]), found[1:], count, clusters)
    return Matched(curve.name, quantity, float(np.isfinite(found[1:]).mean()))


def _columns(quantities: Sequence[Quantity]) -> Floats:
    """Return the untrained model's 0, then each stage: (1 + stages, 1 + resamples)."""
    rows = [np.concatenate([[one.value], one.drawn]) for one in quantities]
    return np.stack([np.zeros_like(rows[0]), *rows])


def crossing(x: Floats, y: Floats, level: float) -> Floats:
    """Return y where x first reaches a level, straight between the points; NaN where it never does.

    Args:
        x: Each column one curve, shape (points, n); the first point lies below the level.
        y: The same shape.
        level: What x has to reach.
    """
    above = x >= level  # (points, n)
    first = np.argmax(above, axis=0)  # (n,)
    is_reached = above.any(axis=0) & (first > 0)
    columns, before = np.arange(x.shape[1]), np.maximum(first - 1, 0)
    low, high = x[before, columns], x[first, columns]
    part = (level - low) / np.where(is_reached, high - low, 1.0)
    start, end = y[before, columns], y[first, columns]
    return np.where(is_reached, start + part * (end - start), math.nan)
