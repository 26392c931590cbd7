"""The suite `verifier`: whether claims are told from claims that their evidence does not support.

    with open_suite(laboratory, Request(Path("data"), sets=("wice", "fm2"))) as suite:
        run_suite(suite, folder, limit=200)

Claims and evidence that people labelled (`eval.verification`), their dev parts only, on which no
adapter is trained; the training-free calibration was fitted on wice, fm2 and fever_symmetric, whose
figures flatter it. Evidence of several texts supports a claim if any one of them does.
`benchmarks/verifying.py` measures other verifiers. Knows nothing of how a verifier judges.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from eval.confidence import auroc, balanced_accuracy, brier, expected_calibration_error
from eval.datasets import LICENCES, find_data, require_licences
from eval.fitting import Floats, Judgements, Use, by_temperature, by_threshold, crossed
from eval.records import Sample, digest
from eval.statistics import Estimate, mean
from eval.suites.pages import SECONDS, Column, Layout, mean_of, share_where
from eval.suites.suite import Laboratory, Measured, Request, Suite, Trial, Variant, hash_code
from eval.verification import SETS, LabelledPair, load
from model.verifier import Judgement, Verifier

NAME = "verifier"
PROTOCOL = 1  # raise it when equal options come to mean another measurement
BLOCK = 16  # claims judged at once
SUPPORTED, UNSUPPORTED = "supported", "not supported"


def default_sets() -> tuple[str, ...]:
    """Return the sets that have a dev part and a licence for every use."""
    return tuple(n for n, one in SETS.items() if "dev" in one.files and n not in LICENCES)


@contextmanager
def open_suite(laboratory: Laboratory, request: Request) -> Iterator[Suite[LabelledPair]]:
    """Yield the suite over the sets that are asked for.

    Raises:
        UsageError: A set is unknown or missing, or its licence is not accepted.
    """
    names = request.sets or default_sets()
    require_licences(names, accepted=request.accepts_licences)
    data = find_data(request.data)
    pairs = {name: load(name, "dev", data) for name in names}
    verifier = laboratory.verifier()
    yield Suite(
        NAME,
        laboratory.identity(generates=False)
        | {
            "cases": digest({name: [asdict(one) for one in own] for name, own in pairs.items()}),
            "protocol": str(PROTOCOL),
            "code": hash_code("suites.verifier", "verification"),
        },
        tuple(_trial(name, one) for name, own in pairs.items() for one in own),
        (Variant("verifier", lambda trials: judged(verifier, trials), block=BLOCK),),
    )


def _trial(name: str, pair: LabelledPair) -> Trial[LabelledPair]:
    expected = SUPPORTED if pair.label else UNSUPPORTED
    return Trial(
        f"{name}/{pair.id}", pair, pair.claim, pair.language, pair.group, name, (expected,)
    )


def judged(verifier: Verifier, trials: Sequence[Trial[LabelledPair]]) -> list[Measured]:
    """Return the verifier's judgements, and those of judges that read nothing."""
    pairs = [(one.subject.claim, text) for one in trials for text in one.subject.evidence]
    found = iter(verifier.judge(pairs))
    return [
        _measured(trial.subject, list(islice(found, len(trial.subject.evidence))))
        for trial in trials
    ]


def _measured(pair: LabelledPair, judgements: Sequence[Judgement]) -> Measured:
    """Return what is kept of a claim whose pieces of evidence were judged."""
    support = max(one.support for one in judgements)
    verdict = any(one.supported for one in judgements)
    blind = {
        "always supported": _scored(pair, 1.0, verdict=True),
        "never supported": _scored(pair, 0.0, verdict=False),
    }
    found = _scored(pair, support, verdict=verdict)
    return Measured(found.output, found.scores, confidence=found.confidence, baselines=blind)


def _scored(pair: LabelledPair, support: float, *, verdict: bool) -> Measured:
    right = float(verdict == bool(pair.label))
    scores = {
        "right": right,
        "label": float(pair.label),
        "right_supported": right if pair.label else None,
        "right_unsupported": None if pair.label else right,
    }
    return Measured(SUPPORTED if verdict else UNSUPPORTED, scores, confidence=float(support))


# --- The report -----------------------------------------------------------------------------------


def _judgements(samples: Sequence[Sample]) -> Judgements:
    return Judgements(
        "",
        np.array([one.scores["label"] for one in samples], dtype=np.float64),
        np.array([one.confidence for one in samples], dtype=np.float64),
        np.array([one.output == SUPPORTED for one in samples], dtype=np.float64),
        [one.cluster for one in samples],
    )


def _column(
    label: str, figure: Callable[[Floats, Floats], float], use: Use | None = None
) -> Column:
    """Return a figure of labels and support; `use` makes other values of support, crosswise."""

    def of(samples: Sequence[Sample], seed: int) -> Estimate:
        found = _judgements(samples)
        if use and len(set(found.folds)) < 2:
            return mean([], [])
        values = crossed(found, [found], use) if use else found.support
        return _interval(found, lambda rows: figure(found.labels[rows], values[rows]), seed)

    return Column(label, of)


def _balanced(samples: Sequence[Sample], seed: int) -> Estimate:
    found = _judgements(samples)
    return _interval(
        found, lambda rows: balanced_accuracy(found.labels[rows], found.judged[rows]), seed
    )


def _interval(
    found: Judgements, statistic: Callable[[NDArray[np.intp]], float], seed: int
) -> Estimate:
    return share_where(statistic, found.groups, seed)


LAYOUT = Layout(
    "Verification",
    "Claims with evidence that people labelled: does the verifier tell those that the evidence"
    " supports from those that it does not?",
    (
        Column("balanced accuracy", _balanced),
        mean_of("right", "accuracy"),
        mean_of("right_supported", "right of the supported"),
        mean_of("right_unsupported", "right of the unsupported"),
        _column("balanced accuracy, threshold of the set", balanced_accuracy, by_threshold),
        _column("AUROC", auroc),
        _column("calibration error, 10 bins", expected_calibration_error),
        _column("calibration error, fitted to the set", expected_calibration_error, by_temperature),
        _column("Brier score", brier),
        mean_of("label", "share supported"),
        SECONDS,
    ),
    legend="Balanced accuracy is the mean of what is right among the supported and among the"
    " unsupported: 0.5 knows nothing. A threshold, or a temperature and bias (Platt 1999), of the"
    " set are fitted on other groups of its claims than those they are measured on. A question with"
    " several passages counts as answered if any one of them answers it.",
    headline="balanced accuracy",
)
