"""What each arm of the injection experiment did: learnt, forgot, made up, and what it took.

    rows = [measure(evidence, arm, "zh") for arm in evidence.arms]
    own = [measure_own(evidence, arm) for arm in evidence.arms]

Pure over evidence: knows nothing of models, of files, or of what the numbers decide
(`eval.frontier.verdict`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.frontier.evidence import (
    KNOWN,
    NEW,
    OWN,
    RECOVERED,
    SEEN,
    TEXTS,
    Evidence,
    Group,
    Score,
)
from eval.injection.arms import Arm
from eval.resampling import Floats, Quantity
from eval.statistics import Estimate

COVERAGE = 0.5  # share of answerable questions that are answered where made-up answers are compared


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
    recovered: Estimate  # of those it forgot, right after others were taught again
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
        recovered=evidence.mean(arm, [RECOVERED], language).estimate,
        drift=evidence.mean(arm, texts, "", "kl").estimate,
        text=over(Arm.parse("base"), texts, "nats"),
        reads=over(passages, [f"control/{SEEN}", f"control/{NEW}"]),
        uses=over(passages, [f"train/{SEEN}", f"train/{NEW}"]),
        heeds=over(passages, ["train/stale"]),
    )


@dataclass(frozen=True, slots=True)
class OwnMeasures:
    """What one arm did with the facts of the user's documents; they are asked in one wording.

    `learnt` is as in `Measures`.
    """

    arm: Arm
    right: Estimate
    guessed: Estimate
    learnt: Estimate


def measure_own(evidence: Evidence, arm: Arm, language: str = "") -> OwnMeasures:
    """Return what an arm made of the facts of documents; NaN if it was not asked."""
    return OwnMeasures(
        arm,
        evidence.mean(arm, [f"{OWN}train/{SEEN}"], language).estimate,
        evidence.mean(arm, [f"{OWN}control/{SEEN}"], language).estimate,
        acquisition(evidence, arm, SEEN, language, OWN).estimate,
    )


def wording_of(evidence: Evidence, group: Group = "") -> str:
    """Return the kind of question that counts: a new wording, or the only one of documents."""
    if group == OWN:
        return SEEN
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


def acquisition(
    evidence: Evidence, arm: Arm, kind: str, language: str = "", group: Group = ""
) -> Quantity:
    """Return what an arm answers beyond guessing; see `Measures`."""
    if arm.is_closed_book:
        train = evidence.mean(arm, [f"{group}train/{kind}"], language)
        return train - evidence.mean(arm, [f"{group}control/{kind}"], language)
    base = untrained(evidence, arm)
    if base is None:
        return evidence.draws.nothing()
    return evidence.difference(arm, base, [f"{group}train/{kind}"], language)


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


# --- What it costs --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one arm, on average over the seeds; None where there is no such part."""

    arm: Arm
    training: float | None
    indexing: float | None
    answering: float  # one question
    per_right: float  # everything, divided by the right answers about facts of its group


def spent(evidence: Evidence, arm: Arm) -> Spent:
    """Return what an arm took."""
    costs = [one for _, one in evidence.samples(arm, "cost")]
    parts = {
        name: [value for one in costs if (value := one.scores.get(name)) is not None]
        for name in ("train_seconds", "index_seconds")
    }
    group = OWN if arm.learns == "documents" else ""
    trained, control = (
        [one for kind in (SEEN, NEW) for _, one in evidence.samples(arm, f"{group}{half}/{kind}")]
        for half in ("train", "control")
    )
    right = sum(one.scores.get("right") or 0.0 for one in trained)
    seconds = [one.seconds for one in (*trained, *control)]
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
