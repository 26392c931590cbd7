"""The bench of verifiers: fitted on other folds only, remembered by identity, fair to its parts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.verifying import Cache, claim_only, estimates, score
from eval.confidence import balanced_accuracy, expected_calibration_error
from eval.fitting import (
    Judgements,
    best_threshold,
    by_temperature,
    by_threshold,
    calibrated,
    crossed,
    fit_temperature,
)
from eval.verification import LabelledPair
from model.verifier import Judgement


class Echo:
    """Supports what stands word for word in the evidence, and counts what it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        self.asked += len(pairs)
        return [Judgement(0.9 if c in e else 0.2, c in e) for c, e in pairs]


def some_scores(count: int = 600, seed: int = 0) -> Judgements:
    """Judgements that are informative but far too sure of themselves."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 2, count).astype(float)
    honest = (labels - 0.5) * 1.5 + chance.normal(0, 1, count)
    support = np.asarray(1 / (1 + np.exp(-(4 * honest + 2))), np.float64)
    groups = [f"group {n // 3}" for n in range(count)]
    judged = np.where(support > 0.5, 1.0, 0.0)
    return Judgements("made", labels, support, judged, groups, ["same"] * count)


def test_a_question_takes_the_best_of_its_passages(tmp_path: Path) -> None:
    rows = [
        LabelledPair("1", "a", ("b", "a b", "c"), 1, "en", "x", "g1"),
        LabelledPair("2", "a", ("b",), 0, "en", "x", "g2"),
    ]
    scores, speed = score("set", rows, Echo(), Cache(tmp_path, "echo"))
    assert scores.support.tolist() == [0.9, 0.2]
    assert scores.judged.tolist() == [1.0, 0.0]
    assert speed > 0


def test_judgements_are_remembered_by_identity(tmp_path: Path) -> None:
    echo, pairs = Echo(), [("a", "a"), ("b", "a"), ("a", "a")]
    first, _ = Cache(tmp_path, "echo").judge(pairs, echo)
    again, speed = Cache(tmp_path, "echo").judge(pairs, echo)
    assert (echo.asked, first, speed) == (2, again, 0.0)  # the same pair is judged once
    Cache(tmp_path, "another").judge(pairs, echo)
    assert echo.asked == 4


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    echo, pairs = Echo(), [("a", "a"), ("b", "a")]
    first, _ = Cache(tmp_path, "echo").judge(pairs, echo)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert Cache(tmp_path, "echo").judge(pairs, echo)[0] == first
    assert file.read_bytes() == whole
    assert echo.asked == 3  # what was torn is judged again


def test_the_threshold_is_the_best_there_is() -> None:
    scores = some_scores()
    found = best_threshold(scores.labels, scores.support)
    reached = balanced_accuracy(scores.labels, scores.support >= found)
    every = [balanced_accuracy(scores.labels, scores.support >= t) for t in scores.support]
    assert reached == pytest.approx(max(every))
    tied = best_threshold(np.array([0.0, 1, 1, 0]), np.array([0.2, 0.2, 0.8, 0.2]))
    assert 0.2 < tied < 0.8


def test_temperature_and_bias_are_found_again() -> None:
    chance = np.random.default_rng(1)
    support = chance.uniform(0.02, 0.98, 40_000)
    labels = (chance.random(40_000) < calibrated(support, 2.0, -0.5)).astype(float)
    temperature, bias = fit_temperature(labels, support)
    assert temperature == pytest.approx(2.0, abs=0.1)
    assert bias == pytest.approx(-0.5, abs=0.05)
    separable = fit_temperature(np.array([0.0, 0.0, 1.0]), np.array([0.1, 0.2, 0.9]))
    assert np.isfinite(separable).all()


def test_calibration_helps_on_folds_it_did_not_see() -> None:
    scores = some_scores()
    fitted = crossed(scores, [scores], by_temperature)
    before = expected_calibration_error(scores.labels, scores.support)
    assert expected_calibration_error(scores.labels, fitted) < before / 2


def test_no_group_judges_itself() -> None:
    """Labels of one fold do not change what is fitted for that fold."""
    scores = some_scores()
    flipped = scores.labels.copy()
    flipped[scores.folds == 0] = 1 - flipped[scores.folds == 0]
    other = replace(scores, labels=flipped)
    own = scores.folds == 0
    for use in (by_threshold, by_temperature):
        before, after = crossed(scores, [scores], use), crossed(other, [other], use)
        assert (before[own] == after[own]).all()
        assert not (before[~own] == after[~own]).all()
    assert all(len({f for f, g in zip(scores.folds, scores.groups, strict=True) if g == name}) == 1
               for name in scores.groups)  # fmt: skip


def test_degenerate_judges_are_at_chance_and_telling_claims_are_found_out() -> None:
    scores = some_scores(150)
    found = estimates(scores, [scores], seed=0)
    assert found["always"].value == found["never"].value == 0.5
    assert found["own"].low < found["own"].value < found["own"].high
    assert found["auroc"].clusters == 50
    telling = [f"surely {n}" if label else f"never {n}" for n, label in enumerate(scores.labels)]
    bare = claim_only(replace(scores, claims=telling))
    assert balanced_accuracy(scores.labels, bare >= 0.5) > 0.95
