"""Claims and citation marks are read from a draft in one place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.claims import DraftClaim, is_refusal, marked, read


@pytest.mark.parametrize(
    ("draft", "claims"),
    [
        ("Ola Fenn [1]", [DraftClaim("Ola Fenn", (1,))]),
        ("林望舒[2]", [DraftClaim("林望舒", (2,))]),
        ("It opened in 1931 [1][3].", [DraftClaim("It opened in 1931.", (1, 3))]),
        ("It opened in 1931 [1, 3].", [DraftClaim("It opened in 1931.", (1, 3))]),
        ("It opened in 1931 [1-3].", [DraftClaim("It opened in 1931.", (1, 2, 3))]),
        ("建于1931年【１】。", [DraftClaim("建于1931年。", (1,))]),
        (
            "One fact. [1] Another one. [2]",
            [DraftClaim("One fact.", (1,)), DraftClaim("Another one.", (2,))],
        ),
        ("第一句。[1]第二句。[2]", [DraftClaim("第一句。", (1,)), DraftClaim("第二句。", (2,))]),
        ("It is so. It is so.", [DraftClaim("It is so.")]),
        ("[1]", []),
        ("", []),
        (" ... ", []),
    ],
)
def test_claims_carry_the_passages_they_cite(draft: str, claims: list[DraftClaim]) -> None:
    assert read(draft, [1, 2, 3]) == claims


def test_a_number_that_names_no_passage_is_no_citation() -> None:
    assert read("Ola Fenn [7]", [1, 2]) == [DraftClaim("Ola Fenn")]
    assert read("In [1931] it opened [0]", [1]) == [DraftClaim("In [1931] it opened")]


@pytest.mark.parametrize(
    "draft",
    [
        "The passages do not say.",
        "I don't know.",
        "资料没有说明。",
        "文档中未提及。",
        "Not mentioned [1]",
        "The provided passages do not mention who built it.",
        "The context provided does not say.",
        "资料中没有相关信息。",
    ],
)
def test_a_refusal_is_no_claim(draft: str) -> None:
    assert read(draft, [1]) == []


@pytest.mark.parametrize(
    "claim",
    ["Mars does not contain liquid water.", "参数没有记载事实的来源。", "作者不知道答案在哪里。"],
)
def test_a_negated_statement_is_a_claim(claim: str) -> None:
    assert [one.text for one in read(claim, [1])] == [claim]


@given(st.text(alphabet="[]【】0123456789-,、; .。abc", max_size=40))
def test_no_draft_breaks_the_reader(draft: str) -> None:
    assert all(set(claim.cited) <= {1, 2} for claim in read(draft, [1, 2]))


def test_a_long_sentence_with_a_negation_is_a_claim() -> None:
    claim = "The treaty did not mention the islands, " + "which both sides held for years " * 4
    assert not is_refusal(claim)


def test_marks_stand_before_the_closing_punctuation() -> None:
    assert marked("It opened in 1931.", [1, 3, 1]) == "It opened in 1931 [1][3]."
    assert marked("建于1931年。", [2]) == "建于1931年[2]。"
    assert marked("Ola Fenn", [1]) == "Ola Fenn [1]"
    assert marked("Ola Fenn", []) == "Ola Fenn"
