"""Rates of right, wrong and unanswered against OpenAI's script and by hand."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.outcomes import (
    Outcome,
    Outcomes,
    baseline_scores,
    degenerate_outputs,
    outcome,
    outcome_scores,
    tally,
)

ALL: Sequence[Outcome] = ("correct", "incorrect", "not attempted")


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("Mara Oan built it.", ["Mara Oan"], "correct"),
        ("Bo Rook", ["Mara Oan"], "incorrect"),
        (" \n", ["Mara Oan"], "not attempted"),
        ("Mara Oan", [], "incorrect"),  # nothing is right where there is no answer
        ("", [], "not attempted"),
    ],
)
def test_outcome(prediction: str, answers: list[str], expected: Outcome) -> None:
    assert outcome(prediction, answers, "en") == expected


def simple_evals(found: Sequence[Outcome]) -> tuple[float, float]:
    """OpenAI's accuracy given attempted and F1, written anew from simpleqa_eval.py's formulas."""
    correct = sum(one == "correct" for one in found) / len(found)
    incorrect = sum(one == "incorrect" for one in found) / len(found)
    attempted = correct + incorrect
    given_attempted = correct / attempted if attempted > 0 else 0
    total = given_attempted + correct
    return given_attempted, 2 * given_attempted * correct / total if total > 0 else 0


@given(st.lists(st.sampled_from(ALL), min_size=1, max_size=30))
def test_rates_equal_those_of_simple_evals(found: list[Outcome]) -> None:
    rates = tally(found)
    given_attempted, f_score = simple_evals(found)
    assert rates.accuracy_given_attempted == pytest.approx(given_attempted)
    assert rates.f_score == pytest.approx(f_score)
    assert rates.accuracy == found.count("correct") / len(found)


def test_rates_by_hand() -> None:
    rates = Outcomes(correct=40, incorrect=10, not_attempted=50)
    assert (rates.count, rates.attempted) == (100, 50)
    assert (rates.accuracy, rates.accuracy_given_attempted) == (0.4, 0.8)
    assert rates.f_score == pytest.approx(2 * 0.4 * 0.8 / 1.2)
    assert (rates.hallucination_rate, rates.wrong_if_attempted) == (0.1, 0.2)


def test_silence_is_never_wrong_and_never_right() -> None:
    silent = Outcomes(0, 0, 7)
    assert silent.f_score == silent.accuracy_given_attempted == silent.hallucination_rate == 0.0
    assert math.isnan(silent.wrong_if_attempted)
    assert math.isnan(tally([]).hallucination_rate) and tally([]).accuracy == 0.0


@given(st.lists(st.sampled_from(ALL), min_size=1, max_size=30))
def test_scores_of_samples_have_the_rates_as_their_means(found: list[Outcome]) -> None:
    rates = tally(found)
    rows = [outcome_scores(one, answerable=True) for one in found]

    def mean(name: str) -> float:
        numbers = [row[name] for row in rows]
        kept = [number for number in numbers if number is not None]
        return sum(kept) / len(kept) if kept else math.nan

    assert mean("correct") == pytest.approx(rates.accuracy)
    assert mean("hallucinated") == pytest.approx(rates.hallucination_rate)
    assert mean("wrong_if_attempted") == pytest.approx(rates.wrong_if_attempted, nan_ok=True)
    assert mean("attempted") == pytest.approx(1 - mean("over_refused"))


def test_refusals_count_where_they_are_right_and_where_they_are_not() -> None:
    silent, loud = (
        outcome_scores("not attempted", answerable=False),
        outcome_scores("incorrect", answerable=False),
    )
    assert (silent["rejected"], loud["rejected"]) == (1.0, 0.0)
    assert silent["over_refused"] is None
    refused = outcome_scores("not attempted", answerable=True)
    assert (refused["over_refused"], refused["rejected"]) == (1.0, None)


def test_degenerate_baselines() -> None:
    passages = ["Mara Oan built it. It is long.", "Bo Rook sang."]
    assert degenerate_outputs(passages) == {
        "always abstain": "",
        "echo all passages": "Mara Oan built it. It is long.\nBo Rook sang.",
        "first sentence": "Mara Oan built it.",
    }
    assert set(degenerate_outputs([]).values()) == {""}
    scores = baseline_scores(
        passages, lambda said: outcome_scores(outcome(said, ["Bo Rook"], "en"), answerable=True)
    )
    assert {name: row["correct"] for name, row in scores.items()} == {
        "always abstain": 0.0,
        "echo all passages": 1.0,  # which is why it is printed
        "first sentence": 0.0,
    }
