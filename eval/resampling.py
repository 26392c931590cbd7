"""Numbers that are resampled together, so that their differences are paired without further ado.

    draws = Draws(seed=0)
    learnt = draws.mean(trained, "lora") - draws.mean(control, "lora control")
    str(learnt.estimate)  # "0.412 [0.351, 0.470] n=96"

`eval.statistics` compares two columns of scores. A frontier is made of many numbers of many arms:
differences of differences, and places read off a curve. Here each cluster has one row of weights,
whatever it is used for, so any expression of such numbers has resamples, and what two arms have in
common cancels. The weights are Poisson(1), independent for each cluster (Hanley and MacGibbon
2006, "Creating non-parametric bootstrap samples using Poisson frequencies"), which needs no list of
all clusters. Knows nothing of what the numbers mean.
"""

import hashlib
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eval.statistics import Estimate

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """A number and its resamples; NaN where there is nothing to observe."""

    value: float
    drawn: Floats  # (resamples,); NaN where a resample has no such number
    count: int  # observations
    clusters: int  # the fewest that any part of it rests on

    def __add__(self, other: "Quantity") -> "Quantity":
        """Return the sum, resample by resample."""
        return self._with(self.value + other.value, self.drawn + other.drawn, other)

    def __sub__(self, other: "Quantity") -> "Quantity":
        """Return the difference, resample by resample."""
        return self._with(self.value - other.value, self.drawn - other.drawn, other)

    def __neg__(self) -> "Quantity":
        """Return the number with its sign turned."""
        return Quantity(-self.value, -self.drawn, self.count, self.clusters)

    def _with(self, value: float, drawn: Floats, other: "Quantity") -> "Quantity":
        count = max(self.count, other.count) if self.count and other.count else 0
        return Quantity(value, drawn, count, min(self.clusters, other.clusters))

    @property
    def is_known(self) -> bool:
        """Whether there is a number at all."""
        return math.isfinite(self.value)

    @property
    def estimate(self) -> Estimate:
        """The number with its 95% percentile interval; no bounds from a single cluster."""
        if not self.is_known:
            return Estimate(math.nan, math.nan, math.nan, 0, 0)
        found = self.drawn[np.isfinite(self.drawn)]
        if self.clusters < 2 or not len(found):
            return Estimate(self.value, math.nan, math.nan, self.count, self.clusters)
        low, high = map(float, np.quantile(found, [0.025, 0.975]))
        # What was never seen widens an interval to one side; the number itself stays inside.
        return Estimate(
            self.value, min(low, self.value), max(high, self.value), self.count, self.clusters
        )

    def p(self, least: float = 0.0) -> float:
        """Return how well chance alone explains that the number is not `least`, two-sided.

        As in `eval.statistics.paired`: the smallest level at which the percentile interval leaves
        `least` out, but never below what the signs of the clusters can prove. Where no resample
        gets to `least`, the tail of a normal distribution as wide as the resamples says how far
        it is, so that correcting for many comparisons does not ask for ever more resamples.
        """
        found = self.drawn[np.isfinite(self.drawn)]
        if not self.is_known or not len(found):
            return math.nan
        fewest = min(int(np.sum(found <= least)), int(np.sum(found >= least)))
        level = 2 * (fewest + 1) / (len(found) + 1)
        width = float(np.std(found))
        if not fewest and width:
            level = min(level, math.erfc(abs(self.value - least) / width / math.sqrt(2)))
        return float(min(1.0, max(level, 2.0 ** (1 - self.clusters))))


@dataclass(slots=True)
class Draws:
    """Gives each cluster its weights, and numbers their resamples; equal seeds, equal numbers."""

    seed: int = 0
    resamples: int = 2000
    _weights: dict[Hashable, Floats] = field(default_factory=dict)

    def weights(self, cluster: Hashable) -> Floats:
        """Return how often each resample takes the cluster, shape (resamples,)."""
        if cluster not in self._weights:
            drawn = self._generator("cluster", repr(cluster)).poisson(1.0, self.resamples)
            self._weights[cluster] = drawn.astype(np.float64)
        return self._weights[cluster]

    def nothing(self) -> Quantity:
        """Return what stands where nothing was observed."""
        return Quantity(math.nan, np.full(self.resamples, math.nan), 0, 0)

    def mean(
        self,
        rows: Sequence[tuple[float, Hashable]],
        label: str = "",
        *,
        is_share: bool = True,
    ) -> Quantity:
        """Return the mean over cases.

        Where all values of a share are 0, or all are 1, resampling would claim certainty: there the
        resamples are drawn from what Jeffreys' prior leaves possible with one trial for each
        cluster (Brown, Cai and DasGupta 2001), by themselves for each label.

        Args:
            rows: (value, cluster) of each case.
            label: What is measured, such as the arm.
            is_share: Whether the values are within 0..1.
        """
        if not rows:
            return self.nothing()
        sums: dict[Hashable, float] = {}
        sizes: dict[Hashable, int] = {}
        for value, cluster in rows:
            sums[cluster] = sums.get(cluster, 0.0) + value
            sizes[cluster] = sizes.get(cluster, 0) + 1
        value = math.fsum(sums.values()) / len(rows)
        if is_share and value in (0.0, 1.0):
            return Quantity(value, self.beyond(value, len(sums), label), len(rows), len(sums))
        weights = np.stack([self.weights(cluster) for cluster in sums])  # (clusters, resamples)
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample may be empty
            drawn = (np.array(list(sums.values())) @ weights) / (
                np.array(list(sizes.values()), dtype=np.float64) @ weights
            )
        return Quantity(value, drawn, len(rows), len(sums))

    def beyond(self, value: float, clusters: int, label: str) -> Floats:
        """Return shares that may stand behind one that was seen to be 0 or 1 in all clusters."""
        ones = round(value) * clusters
        generator = self._generator("share", f"{label}\n{clusters}")
        return generator.beta(ones + 0.5, clusters - ones + 0.5, self.resamples)

    def _generator(self, what: str, name: str) -> np.random.Generator:
        text = f"{self.seed}\n{what}\n{name}"
        return np.random.default_rng(
            int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:16], "big")
        )
