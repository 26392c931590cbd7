"""Follow-ups become questions that stand alone, or stay as they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.languages import question_language
from model.rewriting import LONGEST_FOLLOW_UP, Exchange, rewrite
from tests.follow_ups import ALONE, KNOWN, LIGHT, NORWAY, TOWER, UNSEEN, FollowUp

MISREAD = {"What did he say?", "What is its purpose, the purpose of the act?"}


def rewritten(follow_up: FollowUp) -> str:
    before, question, _ = follow_up
    return rewrite(question, [Exchange(*pair) for pair in before])


@pytest.mark.parametrize("follow_up", KNOWN, ids=[one[1] for one in KNOWN])
def test_a_known_follow_up_is_rewritten_as_wanted(follow_up: FollowUp) -> None:
    assert rewritten(follow_up) in follow_up[2]


def test_follow_ups_that_no_rule_was_made_for_are_read_rightly() -> None:
    wrong = {one[1] for one in UNSEEN if rewritten(one) not in one[2]}
    assert wrong <= MISREAD


def test_questions_that_stand_alone_stay_as_they_are() -> None:
    changed = set()
    for question in ALONE:
        before = TOWER if question_language(question) == "zh" else LIGHT
        if rewrite(question, [Exchange(*before)]) != question:
            changed.add(question)
    assert changed <= MISREAD


def test_a_conversation_goes_on_from_the_questions_that_stand_alone() -> None:
    before: list[Exchange] = []
    for question, wanted in [
        ("When was the lighthouse built?", "When was the lighthouse built?"),
        ("How tall is it?", "How tall is the lighthouse?"),
        ("And the bridge?", "How tall is the bridge?"),
        ("Who designed it?", "Who designed the bridge?"),
    ]:
        alone = rewrite(question, before)
        assert alone == wanted
        before.append(Exchange(alone))


def test_another_language_a_long_question_and_no_conversation_change_nothing() -> None:
    light = [Exchange(*LIGHT)]
    for question, before in [
        ("它有多高？", light),
        ("How tall is it?", [Exchange(*TOWER)]),
        ("How tall is it?", []),
        ("How tall is it" + " really" * LONGEST_FOLLOW_UP + "?", light),
    ]:
        assert rewrite(question, before) == question


@given(st.text(max_size=60), st.sampled_from([LIGHT, NORWAY, TOWER]), st.text(max_size=60))
def test_no_text_breaks_the_rules(question: str, before: tuple[str, str], answer: str) -> None:
    assert rewrite(question, []) == question.strip()
    rewrite(question, [Exchange(before[0], answer)])
    for follow_up in ("那钟楼呢？", "它有多高？", "How old is she?", "And in 2020?"):
        assert rewrite(follow_up, [Exchange(question, answer)])
