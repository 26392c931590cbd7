"""What each arm of the injection experiment learnt, what it forgot, and how the two trade.

    evidence = Evidence([read_run(folder) for folder in folders])
    rows = [measure(evidence, arm, "zh") for arm in evidence.arms]
    at_matched_acquisition(evidence, level=0.4)  # retention of each training, equally much learnt

One run is one seed of the experiment; all are pooled, and intervals are over groups of facts
(`eval.resampling`). A case is the same for two arms if its seed and id are, so differences are
paired. A number that was not measured is NaN with n=0. Pure over records: knows nothing of models,
of files, or of what the numbers decide (`eval.verdict`).
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eval.arms import Arm
from eval.records import Run, Sample
from eval.resampling import Draws, Floats, Quantity
from eval.statistics import Estimate
from ingest.errors import UsageError

SUITE = "injection"
COVERAGE = 0.5  # share of answerable questions that are answered where made-up answers are compared
SEEN, NEW, KNOWN = "forward-seen", "forward-new", "known/forward"
TEXTS = ("text/en", "text/zh")

Score = Literal["right", "f1", "refused", "nats", "kl"]
Keeps = Literal["retention", "drift"]  # old facts still answered, or nats moved away from the base
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
    seeds = [run.description.seed for run in runs]
    if len(set(seeds)) != len(seeds):
        raise UsageError(
            "Two of the runs have one seed, which would count their facts twice (seeds"
            f" {', '.join(map(str, sorted(seeds)))}); leave one out."
        )


# --- What an arm did ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measures:
    """What one arm did with the facts of one language, or of all (language "").

    `seen`, `new`, `reverse` and `two_hop` are acquisition. From its weights alone an arm has learnt
    what it answers of trained facts beyond what it answers of never trained ones. Passages may hold
    both, so with passages it is what the arm answers beyond the untrained model without them.
    """

    arm: Arm
    language: str
    right: Estimate  # share of the facts to be learnt, in the newest wording that is asked
    guessed: Estimate  # the same for facts that nothing was trained on
    seen: Estimate
    new: Estimate
    reverse: Estimate
    two_hop: Estimate
    made_up: Estimate  # unanswerable questions answered, at `COVERAGE` of the answerable ones
    retention: Estimate  # of real facts the base knows, arm minus base
    drift: Estimate  # KL(base || arm) on general text, nats per position
    text: Estimate  # loss on general text, arm minus base, nats per token
    reads: Estimate  # right from passages about facts not trained on, arm minus untrained
    uses: Estimate  # the same for facts that were trained on
    heeds: Estimate  # where the passage contradicts the training: right by it, minus untrained


def measure(evidence: Evidence, arm: Arm, language: str = "") -> Measures:
    """Return all outcomes of an arm that was measured."""
    wording = wording_of(evidence)
    passages = reading_twin(evidence, arm)
    texts = [kind for kind in TEXTS if kind.endswith(language)]

    def over(twin: Arm | None, kinds: Sequence[str], score: Score = "right") -> Estimate:
        if twin is None or twin == arm:
            return evidence.draws.nothing().estimate
        return evidence.difference(arm, twin, kinds, language, score).estimate

    return Measures(
        arm,
        language,
        right=evidence.mean(arm, [f"train/{wording}"], language).estimate,
        guessed=evidence.mean(arm, [f"control/{wording}"], language).estimate,
        seen=acquisition(evidence, arm, SEEN, language).estimate,
        new=acquisition(evidence, arm, NEW, language).estimate,
        reverse=acquisition(evidence, arm, "reverse", language).estimate,
        two_hop=acquisition(evidence, arm, "two-hop", language).estimate,
        made_up=made_up(evidence, arm, language).estimate,
        retention=over(known_twin(evidence, arm), [KNOWN]),
        drift=evidence.mean(arm, texts, "", "kl").estimate,
        text=over(Arm.parse("base"), texts, "nats"),
        reads=over(passages, [f"control/{SEEN}", f"control/{NEW}"]),
        uses=over(passages, [f"train/{SEEN}", f"train/{NEW}"]),
        heeds=over(passages, ["train/stale"]),
    )


def wording_of(evidence: Evidence) -> str:
    """Return the kind of question that counts: a new wording, or the only one of documents."""
    is_new = any(evidence.samples(arm, f"train/{NEW}") for arm in evidence.arms)
    return NEW if is_new else SEEN


def untrained(evidence: Evidence, arm: Arm) -> Arm | None:
    """Return the model as it was, asked without passages in the way that the arm is asked."""
    order = ("base", "few-shot") if arm.asked == "zero-shot" else ("few-shot", "base")
    return next((Arm.parse(name) for name in order if evidence.has(Arm.parse(name))), None)


def known_twin(evidence: Evidence, arm: Arm) -> Arm | None:
    """Return the untrained arm that is asked about known facts as this trained one is.

    Without passages that is after examples, whatever the arm was trained on, so that it is the
    weights that differ.
    """
    if arm.training is None:
        return None
    if arm.passages:
        return reading_twin(evidence, arm)
    order = map(Arm.parse, ("few-shot", "base"))
    return next((one for one in order if evidence.has(one)), None)


def reading_twin(evidence: Evidence, arm: Arm) -> Arm | None:
    """Return the untrained arm with as many passages, if this is a trained one with passages."""
    if arm.training is None or not arm.passages:
        return None
    twin = Arm("retrieved", arm.passages)
    return twin if evidence.has(twin) else None


def acquisition(evidence: Evidence, arm: Arm, kind: str, language: str = "") -> Quantity:
    """Return what an arm answers beyond guessing; see `Measures`."""
    if arm.is_closed_book:
        train = evidence.mean(arm, [f"train/{kind}"], language)
        return train - evidence.mean(arm, [f"control/{kind}"], language)
    base = untrained(evidence, arm)
    if base is None:
        return evidence.draws.nothing()
    return evidence.difference(arm, base, [f"train/{kind}"], language)


def made_up(evidence: Evidence, arm: Arm, language: str = "") -> Quantity:
    """Return the share of unanswerable questions that are answered, at `COVERAGE`.

    An arm that answers all it is asked makes up more than one that is silent, whatever it knows. So
    each gets the threshold of confidence at which it answers that share of the answerable questions
    of the trained facts. NaN for an arm without confidences, and for one too silent to get there.
    """
    kinds = (f"train/{wording_of(evidence)}", "train/unanswerable")
    answerable, unanswerable = (_Sure.of(evidence, arm, kind, language) for kind in kinds)
    if answerable is None or unanswerable is None:
        return evidence.draws.nothing()
    thresholds = answerable.thresholds(COVERAGE)  # (1 + resamples,)
    drawn = unanswerable.above(thresholds)  # (1 + resamples,)
    value, clusters = float(drawn[0]), unanswerable.clusters
    if value in (0.0, 1.0):
        label = f"{arm.name} made up {language}"
        return Quantity(
            value, evidence.draws.beyond(value, clusters, label), len(unanswerable.levels), clusters
        )
    return Quantity(value, drawn[1:], len(unanswerable.levels), clusters)


@dataclass(frozen=True, slots=True, eq=False)
class _Sure:
    """Confidences of answers to n questions; minus infinity where it was refused."""

    levels: Floats  # (n,)
    weights: Floats  # (n, 1 + resamples): first how it was observed, then each resample
    clusters: int

    @classmethod
    def of(cls, evidence: Evidence, arm: Arm, kind: str, language: str) -> "_Sure | None":
        own = [one for _, one in evidence.samples(arm, kind, language)]
        if not own or any(one.confidence is None for one in own):
            return None
        levels = [-math.inf if one.scores.get("refused") else one.confidence or 0.0 for one in own]
        drawn = np.stack([evidence.draws.weights(one.cluster) for one in own])
        weights = np.concatenate([np.ones((len(own), 1)), drawn], axis=1)
        return cls(np.array(levels), weights, len({one.cluster for one in own}))

    def thresholds(self, coverage: float) -> Floats:
        """Return the highest confidence that answers that share, NaN where there is none."""
        order = np.argsort(-self.levels, kind="stable")
        shares = np.cumsum(self.weights[order], axis=0)  # (n, 1 + resamples)
        reached = shares >= coverage * shares[-1]
        found: Floats = self.levels[order][np.argmax(reached, axis=0)]
        return np.where(np.isfinite(found) & (shares[-1] > 0), found, math.nan)

    def above(self, thresholds: Floats) -> Floats:
        """Return the share answered at each threshold, NaN where that is NaN."""
        chosen = self.levels[:, None] >= thresholds[None, :]  # (n, 1 + resamples)
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Floats = (chosen * self.weights).sum(axis=0) / self.weights.sum(axis=0)
        return np.where(np.isnan(thresholds), math.nan, found)


# --- The frontier ---------------------------------------------------------------------------------


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
    """Return the curve of each training that was asked without passages, best known first."""
    grouped: dict[str, list[Arm]] = defaultdict(list)
    for arm in evidence.arms:
        if arm.training is not None and arm.is_closed_book and arm.training.lesson != "general":
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


# --- What it costs --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one arm, on average over the seeds; None where there is no such part."""

    arm: Arm
    training: float | None
    indexing: float | None
    answering: float  # one question
    per_right: float  # everything, divided by the right answers about facts to be learnt


def spent(evidence: Evidence, arm: Arm) -> Spent:
    """Return what an arm took."""
    costs = [one for _, one in evidence.samples(arm, "cost")]
    parts = {
        name: [value for one in costs if (value := one.scores.get(name)) is not None]
        for name in ("train_seconds", "index_seconds")
    }
    asked = [
        pair
        for kind in (SEEN, NEW)
        for half in ("train", "control")
        for pair in evidence.samples(arm, f"{half}/{kind}")
    ]
    trained = [one for kind in (SEEN, NEW) for _, one in evidence.samples(arm, f"train/{kind}")]
    right = sum(one.scores.get("right") or 0.0 for one in trained)
    seconds = [one.seconds for _, one in asked]
    each = math.fsum(seconds) / len(seconds) if seconds else math.nan
    whole = math.fsum([*parts["train_seconds"], *parts["index_seconds"], each * len(trained)])
    averages = {
        name: math.fsum(values) / len(values) if values and any(values) else None
        for name, values in parts.items()
    }
    return Spent(
        arm,
        averages["train_seconds"],
        averages["index_seconds"],
        each,
        whole / right if right else math.inf,
    )
