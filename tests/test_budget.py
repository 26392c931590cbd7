"""What fits a budget: the most telling arms first, and what is left out is said."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.arms import Arm, standard_arms
from eval.budget import (
    FEWEST_FACTS,
    SPARED,
    Speeds,
    Work,
    essential,
    plan,
    read_budget,
    read_plan,
    seconds_of,
    whole,
)
from ingest.errors import UsageError

ARMS = standard_arms("cpu")
WORK = Work(
    facts=64,
    tokens={"text": 8000, "paraphrases": 8000, "qa": 12_000, "general": 8000},
    closed=1000,
    reading=1100,
    texts=5000,
)
SPEEDS = Speeds(full=100, lora=200, closed=0.05, reading=0.2, texts=0.002, start=20)


@pytest.mark.parametrize(
    ("text", "level", "seconds"),
    [
        ("smoke", "smoke", None),
        ("GPU", "gpu", None),
        ("60m", "cpu", 3600),
        ("1.5h", "cpu", 5400),
        ("90 s", "cpu", 90),
    ],
)
def test_a_budget_is_a_size_or_a_time(text: str, level: str, seconds: float | None) -> None:
    found = read_budget(text)
    assert (found.level, found.seconds) == (level, seconds)
    assert {"smoke": 8, "cpu": 64, "gpu": 500}[found.level] == found.facts


@pytest.mark.parametrize("text", ["", "60", "m", "0m", "-5m", "an hour", "1e3s", "60 m 5 s"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"no budget; give smoke, gpu, or a time such as 60m"):
        read_budget(text)


def test_a_training_is_paid_once_for_all_its_epochs() -> None:
    def cost(*names: str) -> float:
        return seconds_of([Arm.parse(name) for name in names], WORK, SPEEDS, 64, 1)

    asked = 20 + 1000 * 0.05 + 5000 * 0.002
    assert cost("full-qa-e4") == pytest.approx(asked + 4 * 12_000 / 100)
    assert cost("lora16-qa-e4") == pytest.approx(asked + 4 * 12_000 / 200)
    more = cost("full-qa-e4", "full-qa-e2", "full-qa-half-e4")
    assert more == pytest.approx(cost("full-qa-e4") + 2 * (asked - 20))
    with_passages = cost("full-qa-e4", "full-qa-e4+rag-3")
    assert with_passages == pytest.approx(cost("full-qa-e4") + 1100 * 0.2)
    one = [Arm.parse("full-qa-e4")]
    assert seconds_of(one, WORK, SPEEDS, 32, 2) == pytest.approx(2 * (30 + 50 / 2 + 480 / 2))


def test_a_verdict_needs_few_arms() -> None:
    names = [arm.name for arm in essential(ARMS)]
    assert names == ["base", "few-shot", "rag-3", "lora16-qa-e4"]


def test_everything_fits_where_there_is_no_limit() -> None:
    made = plan(read_budget("gpu"), ARMS, WORK, SPEEDS)
    assert made == whole(read_budget("gpu"), ARMS)
    assert (made.arms, made.seeds, made.left_out) == (tuple(arm.name for arm in ARMS), 3, ())


def test_a_short_budget_gives_up_seeds_then_facts_then_arms() -> None:
    made = plan(read_budget("15m"), ARMS, WORK, SPEEDS)
    assert (made.facts, made.seeds) == (64, 1)
    assert made.left_out[0].what == "2 of 3 seeds"
    shorter = plan(read_budget("8m"), ARMS, WORK, SPEEDS)
    assert shorter.facts < 64
    assert "facts of each language" in shorter.left_out[0].what
    assert set(shorter.arms) >= {"base", "few-shot", "rag-3", "lora16-qa-e4"}
    with pytest.raises(UsageError, match=r"give --budget \d+m or more") as caught:
        plan(read_budget("2m"), ARMS, WORK, SPEEDS)
    enough = str(caught.value).split("--budget ")[1].split()[0]
    assert plan(read_budget(enough), ARMS, WORK, SPEEDS).facts == FEWEST_FACTS


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 4000), st.integers(1, 4))
def test_a_plan_keeps_to_its_budget_and_names_the_rest(minutes: int, seeds: int) -> None:
    budget = read_budget(f"{minutes}m")
    made = plan(budget, ARMS, WORK, SPEEDS, seeds=seeds)
    assert budget.seconds is not None and made.seconds is not None
    chosen = [Arm.parse(name) for name in made.arms]
    assert made.seconds == seconds_of(chosen, WORK, SPEEDS, made.facts, made.seeds)
    assert made.seconds <= SPARED * budget.seconds
    left = {one.what for one in made.left_out}
    assert {*made.arms, *left} >= {arm.name for arm in ARMS}
    assert not left & set(made.arms)
    assert [arm.name for arm in ARMS if arm.name in made.arms] == list(made.arms)


def test_a_plan_is_written_and_read() -> None:
    made = plan(read_budget("90m"), ARMS, WORK, SPEEDS)
    made = replace(made, facts_chance={"forward-new": 0.0125})
    assert read_plan(made.to_json()) == made


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", json.dumps({"budget": {}}), '{"budget": {"name": "60m"}}']
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_plan(text)
