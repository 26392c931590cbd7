"""The samples of several seeds of the injection experiment, as numbers that can be compared.

    evidence = Evidence([read_run(folder) for folder in folders])
    evidence.difference(arm, base, ["train/forward-new"], "zh").estimate

One run is one seed of the experiment; all are pooled, and intervals are over groups of facts
(`eval.resampling`). A case is the same for two arms if its seed and id are, so differences are
paired. A number that was not measured is NaN with n=0. Pure over records: knows nothing of models,
of files, or of what the numbers mean.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from eval.injection.arms import Arm
from eval.records import Run, Sample
from eval.resampling import Draws, Quantity
from ingest.errors import UsageError

SUITE = "injection"
SEEN, NEW, KNOWN = "forward-seen", "forward-new", "known/forward"
RECOVERED = "known/recovered"
TEXTS = ("text/en", "text/zh")

Group = Literal["", "own/"]  # of facts: invented ones, or those of the user's documents
OWN: Group = "own/"
Score = Literal["right", "f1", "refused", "nats", "kl"]
_Rows = dict[tuple[int, str], tuple[float, str]]  # (seed, case) to value and cluster


class Evidence:
    """The samples of several seeds, ready to be compared."""

    def __init__(self, runs: Sequence[Run], *, seed: int = 0, resamples: int = 2000) -> None:
        """Take the runs.

        Args:
            runs: One of each seed of the experiment.
            seed: Of the resampling.
            resamples: Number of bootstrap resamples.

        Raises:
            UsageError: There is none, one is no injection run, two are of one seed, or a sample's
                arm has no name that is known.
        """
        _require_comparable(runs)
        self.runs = tuple(runs)
        self.draws = Draws(seed, resamples)
        self._samples: dict[tuple[str, str], list[tuple[int, Sample]]] = defaultdict(list)
        self.failures: dict[str, str] = {}  # arm to why it could not be measured
        for run in runs:
            for sample in run.samples:
                if sample.failure is not None:
                    self.failures.setdefault(sample.arm, sample.failure)
                else:
                    self._samples[sample.arm, sample.kind].append((run.description.seed, sample))
        self.arms = tuple(
            Arm.parse(name) for name in dict.fromkeys(arm for arm, _ in self._samples)
        )

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of the questions, "en" first."""
        found = {one.language for own in self._samples.values() for _, one in own if one.expected}
        return tuple(sorted(found))

    @property
    def own_facts(self) -> int:
        """How many facts of the user's documents stand in a half that was trained on, each once."""
        return len({
            one.case_id
            for (_, kind), own in self._samples.items()
            if kind == f"{OWN}train/{SEEN}"
            for _, one in own
        })  # fmt: skip

    def has(self, arm: Arm) -> bool:
        """Return whether the arm was measured."""
        return arm in self.arms

    def samples(self, arm: Arm, kind: str, language: str = "") -> list[tuple[int, Sample]]:
        """Return (seed, sample) of an arm and kind, in one language or in all."""
        own = self._samples.get((arm.name, kind), [])
        return [(seed, one) for seed, one in own if language in ("", one.language)]

    def mean(
        self, arm: Arm, kinds: Sequence[str], language: str = "", score: Score = "right"
    ) -> Quantity:
        """Return the mean score of an arm over cases of some kinds."""
        return self._mean(self._rows(arm, kinds, language, score), arm, kinds, language, score)

    def difference(
        self,
        arm: Arm,
        base: Arm,
        kinds: Sequence[str],
        language: str = "",
        score: Score = "right",
    ) -> Quantity:
        """Return how far an arm lies above another on the cases that both have."""
        own, other = (self._rows(one, kinds, language, score) for one in (arm, base))
        common = own.keys() & other.keys()
        left, right = (
            self._mean(
                {key: rows[key] for key in rows if key in common}, one, kinds, language, score
            )
            for one, rows in ((arm, own), (base, other))
        )
        return left - right

    def _rows(self, arm: Arm, kinds: Sequence[str], language: str, score: Score) -> _Rows:
        rows: _Rows = {}
        for kind in kinds:
            for seed, one in self.samples(arm, kind, language):
                value = one.scores.get(score)
                if value is not None:
                    rows[seed, f"{kind} {one.case_id}"] = (float(value), one.cluster)
        return rows

    def _mean(
        self, rows: _Rows, arm: Arm, kinds: Sequence[str], language: str, score: Score
    ) -> Quantity:
        label = " ".join((arm.name, *kinds, language, score))
        return self.draws.mean(
            list(rows.values()), label, is_share=score in ("right", "f1", "refused")
        )


def _require_comparable(runs: Sequence[Run]) -> None:
    if not runs:
        raise UsageError("There is no run to report on; give the folders of finished runs.")
    for run in runs:
        if run.description.suite != SUITE:
            raise UsageError(
                f"{run.name} is a run of {run.description.suite}, not of {SUITE}; give folders that"
                " tether frontier wrote."
            )
    if len({run.description.identity.get("weights") for run in runs}) > 1:
        raise UsageError("Some of the runs are of another model; give runs of one.")
    told = [run.description.identity for run in runs]
    names = {name for one in told for name in one} - {"seed", "world"}
    if differing := sorted(name for name in names if len({one.get(name) for one in told}) > 1):
        raise UsageError(
            f"The runs differ in more than their seed and its facts: {', '.join(differing)}; give"
            " runs of one experiment."
        )
    seeds = [run.description.seed for run in runs]
    if len(set(seeds)) != len(seeds):
        raise UsageError(
            "Two of the runs have one seed, which would count their facts twice (seeds"
            f" {', '.join(map(str, sorted(seeds)))}); leave one out."
        )
