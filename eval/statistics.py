"""Estimates with 95% intervals; questions about one passage are not independent.

Knows nothing of what the numbers mean.

    str(mean([1, 0, 1, 1], ["p1", "p1", "p2", "p3"]))  # "0.750 [0.333, 1.000] n=4"
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
    the statistic is NaN, such as those that lack a label, are left out.

    Args:
        statistic: Maps the places of rows, shape (m,), repeats included, to a number.
        clusters: The cluster of each row, shape (n,).
        seed: Of the resampling; equal seeds give equal bounds.
        resamples: Number of bootstrap resamples.
    """
    count = len(clusters)
    if not count:
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    members: dict[Hashable, list[int]] = {}
    for place, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(place)
    groups = [np.array(places, dtype=np.intp) for places in members.values()]
    value = statistic(np.arange(count))
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
