"""What fits a budget: the most telling arms first, and what is left out is said."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.injection.arms import Arm, core_arms, standard_arms
from eval.injection.budget import (
    FEWEST_FACTS,
    SPARED,
    FromDocuments,
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
    tokens={
        "text": 8000, "paraphrases": 8000, "qa": 12_000, "general": 8000, "documents": 3000,
    },
    closed=1000,
    reading=1100,
    own=20,
    known=30,
    texts=5000,
    replay={"qa": 6000},
)  # fmt: skip
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

    asked = 20 + 1030 * 0.05 + 5000 * 0.002
    assert cost("full-qa-e4") == pytest.approx(asked + 4 * 12_000 / 100)
    assert cost("lora16-qa-e4") == pytest.approx(asked + 4 * 12_000 / 200)
    more = cost("full-qa-e4", "full-qa-e2", "full-qa-half-e4")
    assert more == pytest.approx(cost("full-qa-e4") + 2 * (asked - 20))
    with_passages = cost("full-qa-e4", "full-qa-e4+rag-3")
    assert with_passages == pytest.approx(cost("full-qa-e4") + 1100 * 0.2)
    one = [Arm.parse("full-qa-e4")]
    half = 30 + 1.5 + 50 / 2 + 480 / 2  # what is known and texts do not grow with the facts
    assert seconds_of(one, WORK, SPEEDS, 32, 2) == pytest.approx(2 * half)
    assert cost("full-qa-replay-e4") == pytest.approx(cost("full-qa-e4") + 4 * 6000 / 100)


def test_fewer_passages_are_read_sooner() -> None:
    speeds = replace(SPEEDS, single=0.1)
    names = ("base", "oracle", "rag-1", "full-qa-e1+rag-3", "rag-5")
    found = [speeds.question(Arm.parse(name)) for name in names]
    assert found == pytest.approx([0.05, 0.1, 0.1, 0.2, 0.3])
    assert SPEEDS.question(Arm.parse("rag-1")) == SPEEDS.question(Arm.parse("rag-3")) == 0.2


def test_whoever_is_shown_no_short_answer_talks_longer() -> None:
    speeds = replace(SPEEDS, bare=0.4)
    names = ("base", "few-shot", "full-qa-e1", "full-text-e1")
    found = [speeds.question(Arm.parse(name)) for name in names]
    assert found == pytest.approx([0.4, 0.05, 0.05, 0.05])
    assert SPEEDS.question(Arm.parse("base")) == 0.05


def test_what_all_seeds_ask_the_untrained_model_alike_is_paid_once() -> None:
    one, three = (seconds_of([Arm.parse("few-shot")], WORK, SPEEDS, 64, n) for n in (1, 3))
    assert one == pytest.approx(20 + 1050 * 0.05)
    assert three == pytest.approx(3 * (20 + 1000 * 0.05) + 50 * 0.05)


def test_documents_are_taught_and_asked_whatever_the_number_of_invented_facts() -> None:
    arms = [Arm.parse(name) for name in ("full-documents-e2", "full-documents-e2+rag-3")]
    few, many = (seconds_of(arms, WORK, SPEEDS, facts, 1) for facts in (8, 64))
    assert few == many == pytest.approx(20 + 2 * 3000 / 100 + 50 * 0.05 + 10 + 20 * 0.2)
    untrained = [Arm.parse("rag-1")]
    assert seconds_of(untrained, WORK, SPEEDS, 64, 1) == pytest.approx(20 + 1120 * 0.2)


def test_a_verdict_needs_few_arms() -> None:
    names = [arm.name for arm in essential(ARMS)]
    assert names == ["base", "few-shot", "rag-3", "full-qa-e4"]


def test_everything_fits_where_there_is_no_limit() -> None:
    made = plan(read_budget("gpu"), ARMS, WORK, SPEEDS)
    assert made == whole(read_budget("gpu"), ARMS)
    assert (made.arms, made.seeds, made.left_out) == (tuple(arm.name for arm in ARMS), 3, ())


def test_a_short_budget_gives_up_facts_then_arms_then_seeds() -> None:
    core = {arm.name for arm in core_arms()}

    def made(budget: str) -> tuple[int, int, set[str]]:
        found = plan(read_budget(budget), ARMS, WORK, SPEEDS, core=core_arms())
        return found.facts, found.seeds, set(found.arms)

    facts, seeds, arms = made("10h")
    assert (facts, seeds) == (64, 3) and core < arms
    facts, seeds, arms = made("2h")
    assert (FEWEST_FACTS < facts < 64, seeds) == (True, 3) and core <= arms
    facts, seeds, arms = made("25m")
    assert (facts, seeds) == (FEWEST_FACTS, 3) and {"base", "few-shot", "rag-3"} < arms < core
    facts, seeds, arms = made("5m")
    assert (facts, seeds) == (FEWEST_FACTS, 1)
    with pytest.raises(UsageError, match=r"give --budget \d+m or more") as caught:
        made("2m")
    enough = str(caught.value).split("--budget ")[1].split()[0]
    assert made(enough)[:2] == (FEWEST_FACTS, 1)


# As gemma-3-270m went on two slow cores, from the minutes of docs/reports/knowledge-100m/plan.json.
SLOW_WORK = Work(
    facts=64,
    tokens={
        "text": 13_400, "paraphrases": 13_400, "qa": 24_000, "general": 10_400, "documents": 4840,
    },
    closed=768,
    reading=896,
    own=24,
    known=31,
    texts=2300,
    replay={"qa": 17_300},
)  # fmt: skip
SLOW = Speeds(full=100, lora=187, closed=0.29, reading=0.86, single=0.63, texts=0.01, bare=0.43)


@pytest.mark.parametrize(("budget", "stages"), [("60m", 2), ("100m", 4)])
def test_an_hour_or_two_measures_several_stages_or_rates_of_full_training_and_of_lora(
    budget: str, stages: int
) -> None:
    made = plan(read_budget(budget), ARMS, SLOW_WORK, SLOW, core=core_arms(), spent=800.0)
    assert (made.facts, made.seeds) == (FEWEST_FACTS, 3)
    trained = [one for one in map(Arm.parse, made.arms) if one.training and not one.passages]
    for recipe in ("full", "lora16"):
        names = [one.name for one in trained if one.name.startswith(f"{recipe}-qa")]
        assert len(names) >= stages
    assert "lora16-documents-e4" in made.arms


def test_what_is_gone_of_the_budget_is_not_planned_again() -> None:
    budget = read_budget("90m")
    fresh, late = (plan(budget, ARMS, WORK, SPEEDS, spent=gone) for gone in (0.0, 1800.0))
    assert fresh.seconds and late.seconds and budget.seconds
    assert late.seconds <= SPARED * budget.seconds
    assert late.facts < fresh.facts or len(late.arms) < len(fresh.arms)


def test_a_plan_says_what_each_arm_adds() -> None:
    made = plan(read_budget("2h"), ARMS, WORK, SPEEDS, core=core_arms(), spent=60.0)
    assert list(made.each) == list(made.arms)
    assert sum(made.each.values()) + 60 == pytest.approx(made.seconds)
    made = replace(made, documents=FromDocuments(48, 30, 24))
    first, *lines = made.lines()
    assert "3 seeds" in first and "24 facts of the documents" in first
    assert all(name in line for name, line in zip(made.arms, lines, strict=False))
    assert sum(line.startswith("left out: ") for line in lines) == len(made.left_out)


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
    made = replace(made, facts_chance={"forward-new": 0.0125}, documents=FromDocuments(48, 30, 24))
    assert read_plan(made.to_json()) == made


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", json.dumps({"budget": {}}), '{"budget": {"name": "60m"}}']
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_plan(text)
