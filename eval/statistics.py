"""Estimates with 95% intervals, and tests between two arms on the same cases.

Questions about one passage are not independent, so what is resampled are passages (clusters).
Knows nothing of what the numbers mean.

    str(mean([1, 0, 1, 1], ["p1", "p1", "p2", "p3"]))  # "0.750 [0.333, 1.000] n=4"
    paired([0, 0, 1], [1, 1, 1], ["p1", "p2", "p3"]).difference  # an Estimate of +0.667
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Z95 = 1.959963984540054  # standard normal quantile at 0.975


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% interval, from `count` observations in `clusters` clusters.

    Everything is NaN where there was nothing to observe; the bounds alone are NaN where one
    cluster says nothing of the spread between clusters.
    """

    value: float
    low: float
    high: float
    count: int
    clusters: int

    def __str__(self) -> str:
        """Return for instance "0.412 [0.391, 0.433] n=1190"."""
        if not self.count:
            return "–"
        interval = "[?]" if math.isnan(self.low) else f"[{_short(self.low)}, {_short(self.high)}]"
        return f"{_short(self.value)} {interval} n={self.count}"


def _short(value: float) -> str:
    """Return three decimals for shares, fewer digits for larger numbers."""
    size = abs(value)
    return f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:.0f}"


def mean(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Estimate:
    """Return the mean of the values with a percentile bootstrap over whole clusters.

    Each resample draws as many clusters as there are, with replacement, and keeps all of their
    values (Davison and Hinkley 1997, section 3.8). Where all values are 0 or all are 1 the
    bootstrap would claim certainty: there the bounds are Wilson's with one trial per cluster.

    Args:
        values: Observations, shape (n,).
        clusters: The cluster of each observation, shape (n,), for instance its passage's id.
        seed: Of the resampling; equal seeds give equal bounds.
        resamples: Number of bootstrap resamples.

    Raises:
        ValueError: `values` and `clusters` differ in length.
    """
    if len(values) != len(clusters):
        raise ValueError("Give one cluster for each value.")
    if not values:
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    observed = np.asarray(values, dtype=np.float64)  # (n,)
    places = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    members = np.array([places[cluster] for cluster in clusters])  # (n,)
    value, number = float(observed.mean()), len(places)
    if number == 1:
        return Estimate(value, math.nan, math.nan, len(values), 1)
    if value in (0.0, 1.0) and np.all(observed == value):
        bounds = wilson(round(value) * number, number)
        return Estimate(value, bounds.low, bounds.high, len(values), number)
    sums = np.bincount(members, weights=observed)  # (clusters,)
    sizes = np.bincount(members).astype(np.float64)  # (clusters,)
    draws = np.random.default_rng(seed).multinomial(
        number, np.full(number, 1.0 / number), size=resamples
    )  # (resamples, clusters)
    low, high = np.quantile((draws @ sums) / (draws @ sizes), [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(values), number)


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> Estimate:
    """Return any statistic of rows with a percentile bootstrap over whole clusters.

    For what is no mean of rows (an area under a curve, a calibration error). Resamples for which
    the statistic is NaN, such as those that lack a label, are left out; where it is NaN of the rows
    themselves, there was nothing to observe.

    Args:
        statistic: Maps the places of rows, shape (m,), repeats included, to a number.
        clusters: The cluster of each row, shape (n,).
        seed: Of the resampling; equal seeds give equal bounds.
        resamples: Number of bootstrap resamples.
    """
    count = len(clusters)
    value = statistic(np.arange(count)) if count else math.nan
    if math.isnan(value):
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    members: dict[Hashable, list[int]] = {}
    for place, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(place)
    groups = [np.array(places, dtype=np.intp) for places in members.values()]
    if len(groups) == 1:
        return Estimate(value, math.nan, math.nan, count, 1)
    generator = np.random.default_rng(seed)
    drawn = np.array(
        [
            statistic(
                np.concatenate(
                    [groups[g] for g in generator.integers(len(groups), size=len(groups))]
                )
            )
            for _ in range(resamples)
        ]
    )
    low, high = (
        np.nanquantile(drawn, [0.025, 0.975]) if not np.isnan(drawn).all() else (math.nan, math.nan)
    )
    return Estimate(value, float(low), float(high), count, len(groups))


def wilson(successes: int, count: int) -> Estimate:
    """Return a plain proportion of independent trials with Wilson's score interval (1927).

    Raises:
        ValueError: `successes` is not within 0..count.
    """
    if not 0 <= successes <= count:
        raise ValueError("The successes must lie between 0 and the count.")
    if not count:
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    share, shrink = successes / count, _Z95**2 / count
    centre = (share + shrink / 2) / (1 + shrink)
    half = _Z95 * math.sqrt(share * (1 - share) / count + shrink / (4 * count)) / (1 + shrink)
    low = 0.0 if successes == 0 else centre - half  # exactly, whatever the rounding
    high = 1.0 if successes == count else centre + half
    return Estimate(share, low, high, count, count)


# --- Two arms on the same cases -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Paired:
    """The mean difference of two arms on the same cases, and how chance alone explains it.

    `p` is two-sided; NaN where there is nothing to compare.
    """

    difference: Estimate  # the right arm minus the left one
    p: float


def paired(
    left: Sequence[float],
    right: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    resamples: int = 10_000,
) -> Paired:
    """Return the difference of means, by a paired bootstrap over whole clusters.

    The differences per case are resampled (Efron and Tibshirani 1993, chapter 16), so what makes a
    case hard for both arms cancels. The p-value is the smallest level at which the percentile
    interval excludes 0, but at least 2 / (resamples + 1), and at least 2^(1 - c) where only c
    clusters show a difference, which is all that their signs could prove. Where all differences
    are equal the bootstrap would claim certainty: for scores within 0..1 the interval then allows
    for a share of other cases, as large as Wilson's interval does for what was never seen.

    Args:
        left: Scores of one arm, shape (n,).
        right: Scores of the other arm on the same cases, shape (n,).
        clusters: The cluster of each case, shape (n,).
        seed: Of the resampling; equal seeds give equal results.
        resamples: Number of bootstrap resamples; a family of m tests needs far more than 40 m.

    Raises:
        ValueError: The three differ in length.
    """
    if not len(left) == len(right) == len(clusters):
        raise ValueError("Give one score of each arm and one cluster for each case.")
    if not len(left):
        return Paired(Estimate(math.nan, math.nan, math.nan, 0, 0), math.nan)
    scores = np.asarray([left, right], dtype=np.float64)  # (2, n)
    differences = scores[1] - scores[0]  # (n,)
    places = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    members = np.array([places[cluster] for cluster in clusters])  # (n,)
    sums = np.bincount(members, weights=differences).astype(np.float64)  # (clusters,)
    sizes = np.bincount(members).astype(np.float64)  # (clusters,)
    value, count, number = float(differences.mean()), len(differences), len(places)
    if number == 1:
        return Paired(Estimate(value, math.nan, math.nan, count, 1), 1.0)
    if np.all(differences == differences[0]):
        is_bounded = scores.min() >= 0 and scores.max() <= 1
        unseen = wilson(0, number).high if is_bounded else 0.0
        low, high = value - unseen * (1 + value), value + unseen * (1 - value)
        least = 0 if np.any(differences) else resamples
    else:
        drawn = _resampled_means(sums, sizes, seed, resamples)
        low, high = map(float, np.quantile(drawn, [0.025, 0.975]))
        least = min(int(np.sum(drawn <= 0)), int(np.sum(drawn >= 0)))
    floor = 2.0 ** (1 - int(np.count_nonzero(sums)))
    p = min(1.0, max(2 * (least + 1) / (resamples + 1), floor))
    return Paired(Estimate(value, low, high, count, number), p)


def _resampled_means(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], seed: int, resamples: int
) -> NDArray[np.float64]:
    """Return the mean of each resample of clusters, shape (resamples,), in bounded memory."""
    generator = np.random.default_rng(seed)
    number = len(sums)
    block = max(1, 2_000_000 // number)
    parts = []
    for start in range(0, resamples, block):
        drawn = generator.integers(number, size=(min(block, resamples - start), number))
        parts.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(parts)


def mcnemar(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the two-sided p-value of McNemar's exact test of two arms on independent cases.

    Only cases that one arm has right and the other wrong count; under chance they fall either way
    like a fair coin (McNemar 1947, in the exact form of the binomial sign test).

    Args:
        left: 0 or 1 for each case, shape (n,).
        right: Those of the other arm on the same cases, shape (n,).

    Raises:
        ValueError: The lengths differ, or a value is neither 0 nor 1.
    """
    if len(left) != len(right) or not {*left, *right} <= {0, 1}:
        raise ValueError("Give 0 or 1 for each case and arm.")
    pairs = list(zip(left, right, strict=True))
    gained, lost = pairs.count((0, 1)), pairs.count((1, 0))
    split = gained + lost
    tail = sum(math.comb(split, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << split))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for being a family (Holm 1979): the chance of one false alarm.

    NaN stays NaN and is no member of the family.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = highest
    return adjusted
