"""A verifier on sets that people labelled: how often it is right, and what its numbers are worth.

    python -m benchmarks.verifying --data ../shared/data --cache build/verifying
    python -m benchmarks.verifying ... --verifier PACKAGE.MODULE:FACTORY --sets wice,fm2 --limit 200

Only the dev parts of `eval.verification` are read, on which no adapter is trained (the overlap
verifier's calibration was: its figures on wice, fm2 and fever_symmetric flatter it). Judgements are
kept in --cache under the verifier's identity, so a changed verifier is judged anew. A question with
several passages is answerable if any one of them answers it, so its support is the greatest.

Three balanced accuracies: `judged` by the verifier's own verdict; `one` at a single threshold for
all sets; `own` at a threshold of the set itself. Thresholds, and the temperature and bias behind
`ece_fitted` (Platt 1999), are fitted on the groups of the other four folds, so that no group judges
itself. `always` and `never` say supported to everything or to nothing, `claim` never reads the
evidence: character n-grams of the claims alone, fitted on the other folds.

A factory returns `(identity, verifier)`; the verifier needs `judge` only.
"""

import argparse
import hashlib
import importlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eval.confidence import auroc, balanced_accuracy, brier, expected_calibration_error
from eval.datasets import find_data
from eval.fitting import (
    FOLDS,
    Floats,
    Judgements,
    best_threshold,
    by_temperature,
    by_threshold,
    crossed,
    fit_temperature,
)
from eval.statistics import Estimate, bootstrap
from eval.verification import SETS, LabelledPair, load
from model.verifier import Judgement

BATCH = 64  # pairs handed to the verifier at once
DEV_SETS = [name for name, found in SETS.items() if "dev" in found.files]


class Judge(Protocol):
    """What a verifier must do to be measured."""

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Return a judgement for each (claim, evidence) pair, in order."""
        ...


def overlap() -> tuple[str, Judge]:
    """Return the training-free verifier that ships with Tether."""
    return _made_of({"reader.adapter": "none", "verifier.adapter": "none"})


def trained() -> tuple[str, Judge]:
    """Return the verifier with the heads that ship with Tether."""
    return _made_of({})


def _made_of(changes: Mapping[str, str]) -> tuple[str, Judge]:
    """Return the verifier of some settings, and what it is made of."""
    from app.assembly import build_encoder, build_verifier
    from app.settings import load_settings

    settings = load_settings(changes)
    encoder = build_encoder(settings)
    verifier = build_verifier(settings, encoder)
    calibration = json.dumps(asdict(verifier.calibration), sort_keys=True)
    fitted = hashlib.sha256(calibration.encode()).hexdigest()[:12]
    name = type(verifier).__name__
    return f"{name} {encoder.identity.weights_hash[:12]} {fitted}", verifier


def build_verifier(name: str) -> tuple[str, Judge]:
    """Return what the factory PACKAGE.MODULE:FACTORY gives."""
    module, _, factory = name.partition(":")
    made: tuple[str, Judge] = getattr(importlib.import_module(module), factory)()
    return made


class Cache:
    """Judgements on disk, one file a verifier: a line for each (claim, evidence) pair."""

    def __init__(self, folder: Path, identity: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._file = folder / f"{name}.jsonl"
        self._known: dict[str, tuple[float, bool]] = {}
        if self._file.exists():
            text = self._file.read_text("utf-8")
            whole = text[: text.rfind("\n") + 1]  # a killed run leaves half a line
            if whole != text:
                self._file.write_text(whole, "utf-8")
            for line in whole.splitlines():
                key, support, supported = json.loads(line)
                self._known[key] = (support, supported)

    def judge(
        self, pairs: Sequence[tuple[str, str]], verifier: Judge
    ) -> tuple[list[Judgement], float]:
        """Return the judgements of all pairs, and the pairs per second of those judged now."""
        keys = [hashlib.sha256(json.dumps(pair).encode()).hexdigest() for pair in pairs]
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._known}
        started, waiting = time.perf_counter(), iter(new.items())
        with self._file.open("a", encoding="utf-8") as out:
            while batch := list(islice(waiting, BATCH)):
                judgements = verifier.judge([pair for _, pair in batch])
                for (key, _), judgement in zip(batch, judgements, strict=True):
                    self._known[key] = (float(judgement.support), bool(judgement.supported))
                    out.write(json.dumps([key, *self._known[key]]) + "\n")
        seconds = time.perf_counter() - started
        return [Judgement(*self._known[key]) for key in keys], len(new) / seconds if new else 0.0


def score(
    name: str, rows: Sequence[LabelledPair], verifier: Judge, cache: Cache
) -> tuple[Judgements, float]:
    """Return the judgements of one set, and the pairs per second."""
    pairs = [(row.claim, text) for row in rows for text in row.evidence]
    judgements, speed = cache.judge(pairs, verifier)
    waiting = iter(judgements)
    best = [list(islice(waiting, len(row.evidence))) for row in rows]
    scores = Judgements(
        name,
        labels=np.array([row.label for row in rows], dtype=np.float64),
        support=np.array([max(j.support for j in found) for found in best]),
        judged=np.array([float(any(j.supported for j in found)) for found in best]),
        groups=[row.group for row in rows],
        claims=[row.claim for row in rows],
    )
    return scores, speed


def claim_only(scores: Judgements) -> Floats:
    """Return how supported each claim sounds to a bag of words that never reads evidence."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counts = CountVectorizer(analyzer="char_wb", ngram_range=(1, 4), min_df=2).fit_transform(
        scores.claims
    )
    values = np.full_like(scores.support, 0.5)
    for fold in range(FOLDS):
        own = scores.folds == fold
        if own.any() and len(set(scores.labels[~own])) == 2:
            model = LogisticRegression(C=0.1, max_iter=300, class_weight="balanced")
            model.fit(counts[~own], scores.labels[~own])
            values[own] = model.predict_proba(counts[own])[:, 1]
    return values


# --- The report -----------------------------------------------------------------------------------


def estimates(
    scores: Judgements, everything: Sequence[Judgements], seed: int
) -> dict[str, Estimate]:
    """Return every figure of one set with its interval over whole groups."""
    labels, support = scores.labels, scores.support
    one = crossed(scores, everything, by_threshold)
    own = crossed(scores, [scores], by_threshold)
    fitted = crossed(scores, [scores], by_temperature)
    bare = claim_only(scores)

    def interval(metric: Callable[[Floats, Floats], float], values: Floats) -> Estimate:
        return bootstrap(lambda rows: metric(labels[rows], values[rows]), scores.groups, seed=seed)

    return {
        "judged": interval(balanced_accuracy, scores.judged),
        "one": interval(balanced_accuracy, one),
        "own": interval(balanced_accuracy, own),
        "auroc": interval(auroc, support),
        "ece": interval(expected_calibration_error, support),
        "ece_fitted": interval(expected_calibration_error, fitted),
        "brier": interval(brier, support),
        "always": interval(balanced_accuracy, np.ones_like(labels)),
        "never": interval(balanced_accuracy, np.zeros_like(labels)),
        "claim": interval(balanced_accuracy, (bare >= 0.5).astype(np.float64)),
        "accuracy_judged": interval(lambda a, b: float((a == b).mean()), scores.judged),
        "accuracy_own": interval(lambda a, b: float((a == b).mean()), own),
    }


def report(
    everything: Sequence[Judgements], speeds: Sequence[float], identity: str, seed: int
) -> dict[str, Any]:
    """Return all figures as a record, and print them as a table."""
    record: dict[str, Any] = {"verifier": identity, "seed": seed, "sets": {}}
    print(f"verifier: {identity}")
    for scores, speed in zip(everything, speeds, strict=True):
        found = estimates(scores, everything, seed)
        temperature, bias = fit_temperature(scores.labels, scores.support)
        threshold = best_threshold(scores.labels, scores.support)
        share = float(scores.labels.mean())
        print(f"\n{scores.name}  (label 1: {share:.2f}; {found['judged'].clusters} groups)")
        for name, estimate in found.items():
            print(f"  {name:16}{estimate}")
        print(f"  fitted on all: threshold {threshold:.4f}, temperature {temperature:.3f},"
              f" bias {bias:+.3f}")  # fmt: skip
        print(f"  pairs a second  {speed:.1f}" if speed else "  pairs a second  (all remembered)")
        record["sets"][scores.name] = {
            **{name: asdict(estimate) for name, estimate in found.items()},
            "share": share,
            "threshold": threshold,
            "temperature": temperature,
            "bias": bias,
            "pairs_per_second": speed or None,
        }
    labels = np.concatenate([scores.labels for scores in everything])
    support = np.concatenate([scores.support for scores in everything])
    record["threshold"] = best_threshold(labels, support)
    record["temperature"], record["bias"] = fit_temperature(labels, support)
    print(f"\nall sets: threshold {record['threshold']:.4f}, temperature"
          f" {record['temperature']:.3f}, bias {record['bias']:+.3f}")  # fmt: skip
    return record


def parts_of(name: str, data: Path, limit: int | None) -> dict[str, list[LabelledPair]]:
    """Return the dev rows of a set by what they are reported as: a set of two languages is two.

    A limit takes the first rows in the order of their group's hash.
    """
    rows = sorted(
        load(name, "dev", data), key=lambda r: hashlib.sha256(r.group.encode()).hexdigest()
    )
    languages = sorted({row.language for row in rows})
    return {
        name if len(languages) == 1 else f"{name}-{language}": [
            row for row in rows if row.language == language
        ][:limit]
        for language in languages
    }


def main() -> None:
    """Judge all sets and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cache", type=Path, required=True, help="folder of judgements")
    parser.add_argument("--verifier", default="benchmarks.verifying:trained")
    parser.add_argument("--sets", default=",".join(DEV_SETS))
    parser.add_argument("--limit", type=int, help="rows a set and language")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    data = find_data(arguments.data)
    identity, verifier = build_verifier(arguments.verifier)
    cache = Cache(arguments.cache, identity)
    everything, speeds = [], []
    for name in arguments.sets.split(","):
        for label, rows in parts_of(name, data, arguments.limit).items():
            scores, speed = score(label, rows, verifier, cache)
            everything.append(scores)
            speeds.append(speed)
    record = report(everything, speeds, identity, arguments.seed)
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
