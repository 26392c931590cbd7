"""Arms and their names are one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.injection.arms import (
    LESSONS,
    LEVELS,
    MITIGATIONS,
    RECIPES,
    Arm,
    Level,
    Training,
    core_arms,
    standard_arms,
)
from ingest.errors import UsageError

NAMES = [
    "base", "few-shot", "oracle", "distractors", "rag-1", "rag-3", "rag-5", "rag-3-answer",
    "full-text-e4+rag-3", "lora16-qa-replay-e8", "lora64-general-e1", "full-paraphrases-ewc-e12",
    "full-qa-half-e2+rag-5",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_and_said_again(name: str) -> None:
    assert Arm.parse(name).name == name


@given(
    st.sampled_from(RECIPES),
    st.sampled_from(LESSONS),
    st.sampled_from(MITIGATIONS),
    st.integers(1, 999),
    st.integers(0, 99),
)
def test_every_trained_arm_has_a_name_of_its_own(
    recipe: str, lesson: str, mitigation: str, epochs: int, passages: int
) -> None:
    if mitigation == "ewc" and recipe != "full":
        with pytest.raises(UsageError, match="full training"):
            Training(recipe, lesson, epochs, mitigation)  # type: ignore[arg-type]
        return
    training = Training(recipe, lesson, epochs, mitigation)  # type: ignore[arg-type]
    closed = "zero-shot" if lesson == "qa" else "few-shot"
    arm = Arm("retrieved" if passages else closed, passages, training=training)  # type: ignore[arg-type]
    assert Arm.parse(arm.name) == arm
    assert arm.is_closed_book == (not passages)


@pytest.mark.parametrize(
    "name",
    [
        "", "Base", "rag-0", "rag-", "rag-3-e4", "lora8-qa-e4", "full-qa", "full-qa-e0",
        "full-qa-none-e4", "full-qa-e4+rag-3-answer", "lora16-qa-ewc-e4", "full-qa-e4\n",
        "oracle+rag-3",
    ],
)  # fmt: skip
def test_what_is_no_arm_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        Arm.parse(name)


@pytest.mark.parametrize(
    ("asked", "passages", "adapted"),
    [("few-shot", 3, False), ("retrieved", 0, False), ("oracle", 0, True), ("guessing", 0, False)],
)
def test_an_arm_without_a_name_cannot_be_made(asked: str, passages: int, adapted: bool) -> None:
    with pytest.raises(UsageError, match="no arm"):
        Arm(asked, passages, adapted=adapted)  # type: ignore[arg-type]


def test_half_of_a_training_and_its_epochs_come_from_one_course() -> None:
    names = ["full-qa-e4", "full-qa-e16", "full-qa-half-e4", "full-qa-e4+rag-3"]
    trainings = [Arm.parse(name).training for name in names]
    assert {one.course for one in trainings if one} == {"full-qa"}
    for held in ("replay", "gentle"):
        apart = Arm.parse(f"full-qa-{held}-e4").training
        assert apart and apart.course == f"full-qa-{held}"


def test_texts_are_measured_once_for_each_set_of_weights() -> None:
    measured = [name for name in NAMES if Arm.parse(name).reads_texts]
    assert measured == [
        "base", "lora16-qa-replay-e8", "lora64-general-e1", "full-paraphrases-ewc-e12",
    ]  # fmt: skip


@pytest.mark.parametrize("level", LEVELS)
def test_standard_arms_hold_what_every_comparison_needs(level: Level) -> None:
    arms = standard_arms(level)
    names = [arm.name for arm in arms]
    assert len(set(names)) == len(names)
    assert {"base", "few-shot", "rag-3"} <= set(names[:5])
    for arm in arms:  # with retrieval only beside the same weights without it
        assert not (arm.training and arm.passages) or arm.training.name in names
    lessons = {arm.training.lesson for arm in arms if arm.training}
    assert lessons == set(LESSONS)


@pytest.mark.parametrize(
    ("name", "learns"),
    [
        ("base", "nothing"), ("rag-3", "nothing"), ("full-general-e1", "nothing"),
        ("full-documents-e1+rag-3", "documents"), ("lora4-documents-replay-e2", "documents"),
        ("full-text-e1", "facts"), ("lora4-qa-half-e2+rag-1", "facts"),
    ],
)  # fmt: skip
def test_an_arm_learns_one_group_of_facts(name: str, learns: str) -> None:
    assert Arm.parse(name).learns == learns


STAGES_AND_RATES = ("e1", "e2", "e4", "gentle-e2", "gentle-e4")


def test_the_core_has_what_the_known_claims_are_about() -> None:
    core = [arm.name for arm in core_arms()]
    assert core == [arm.name for arm in standard_arms("cpu")][: len(core)]
    wanted = {"oracle", "rag-1", "rag-3", "full-general-e4", "full-qa-replay-e4+rag-3"}
    wanted |= {f"full-{lesson}-e4" for lesson in ("text", "paraphrases", "qa")}
    wanted |= {f"{recipe}-qa-{one}" for recipe in ("full", "lora16") for one in STAGES_AND_RATES}
    wanted |= {"lora16-qa-e4", "lora16-qa-e4+rag-3", "lora16-documents-e4+rag-3"}
    assert wanted < set(core)


def test_larger_experiments_hold_the_smaller_ones_arms() -> None:
    assert set(standard_arms("cpu")) < set(standard_arms("gpu"))
    held = {arm.training.mitigation for arm in standard_arms("gpu") if arm.training}
    assert held == set(MITIGATIONS)
