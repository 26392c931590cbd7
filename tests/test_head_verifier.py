"""The trained verifier, with random heads: what joins the fitted features, and what stays above."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.alignment import Aligner
from model.claims import Draft
from model.cross_encoder import load_head
from model.head_verifier import SPANS, HeadReader, Heads, HeadVerifier
from model.verifier import MOST_MARGIN, Logistic
from retrieval.encoders import OnnxEncoder
from retrieval.onnx import OnnxBert, read_prompts
from retrieval.search import given_passages
from tests.test_cross_encoder import BASE, open_bert, open_head, random_head
from tests.test_onnx import build
from tests.test_verifier import TEXTS, plain_calibration

QUESTION = "Who built the Zarnith bridge?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def bert(folder: Path) -> OnnxBert:
    return open_bert(folder)


@pytest.fixture(scope="module")
def encoder(folder: Path, bert: OnnxBert) -> OnnxEncoder:
    return OnnxEncoder(bert, "tiny", "0" * 64, read_prompts(folder))


@pytest.fixture(scope="module")
def heads(folder: Path, bert: OnnxBert, tmp_path_factory: pytest.TempPathFactory) -> Heads:
    target = tmp_path_factory.mktemp("heads")
    random_head(folder, target / "read", "read")
    random_head(folder, target / "verify", "verify")
    judge = Aligner(bert, load_head(target / "verify", bert, BASE))
    return Heads(open_head(bert, target / "read"), judge)


def verifier(encoder: OnnxEncoder, heads: Heads, **weights: float) -> HeadVerifier:
    plain = plain_calibration()
    answer = Logistic(-3.0, {"terms": 4.0, "relevance": 1.0} | weights)
    return HeadVerifier(
        encoder,
        heads,
        replace(plain, answer={"en": answer, "zh": answer}),
    )


def with_functions(encoder: OnnxEncoder, heads: Heads, **functions: Logistic) -> HeadVerifier:
    fitted: dict[str, Any] = {name: {"en": one, "zh": one} for name, one in functions.items()}
    return HeadVerifier(encoder, heads, replace(plain_calibration(), **fitted))


def test_what_was_read_stands_in_its_sentence(encoder: OnnxEncoder, heads: Heads) -> None:
    assert heads.read is not None
    weighed = verifier(encoder, heads).weigh(QUESTION, given_passages(TEXTS, QUESTION, encoder))
    assert len(weighed.readings) == len(weighed.sentences) == 4
    for sentence, read, features in zip(
        weighed.sentences, weighed.readings, weighed.features, strict=True
    ):
        assert read.text and read.text in sentence.text
        assert features["reader"] == read.margin
        assert abs(read.margin) <= MOST_MARGIN
    best = max(weighed.features, key=lambda features: features["reader"])
    assert best["reader_lead"] >= 0
    assert HeadReader(heads.read).read(QUESTION, []) == []


def test_fitted_functions_see_the_heads(encoder: OnnxEncoder, heads: Heads) -> None:
    passages = given_passages(TEXTS, QUESTION, encoder)
    judge = verifier(encoder, heads)
    weighed = judge.weigh(QUESTION, passages)
    (row,) = judge.claim_features(weighed, "Ola Fenn", [[0]], confidence=-1.5)
    assert row["confidence"] == -1.5
    assert {"reader", "reader_agrees"} <= set(row)
    sure = verifier(encoder, heads, confidence=1.0).judge_answer(weighed, "Ola Fenn", [1], -0.1)
    unsure = verifier(encoder, heads, confidence=1.0).judge_answer(weighed, "Ola Fenn", [1], -9.0)
    assert unsure.support < sure.support


def test_no_head_can_let_through_what_breaks_a_rule(encoder: OnnxEncoder, heads: Heads) -> None:
    passages = given_passages(TEXTS, QUESTION, encoder)
    judge = verifier(encoder, heads, confidence=-100.0)  # as sure as a function can be
    weighed = judge.weigh(QUESTION, passages)
    assert judge.judge_answer(weighed, "Ola Fenn", [1], -9.0).supported
    for claim in ("Peter Grau", "Ola Fenn in 1871", "The bridge was not built by Ola Fenn."):
        assert not judge.judge_answer(weighed, claim, [1], -9.0).supported


def test_pairs_are_judged_with_the_heads_logit(encoder: OnnxEncoder, heads: Heads) -> None:
    assert heads.verify is not None
    function = Logistic(0.1, {"verified": 0.5}, threshold=0.4)
    judge = with_functions(encoder, heads, statement=function)
    pairs = [("Ola Fenn built it.", TEXTS[0]), ("茶叶在四月采收。", TEXTS[1])]
    logits = np.clip(heads.verify.score(pairs), -MOST_MARGIN, MOST_MARGIN)
    for judgement, logit in zip(judge.judge(pairs), logits, strict=True):
        assert judgement.support == pytest.approx(function.probability({"verified": float(logit)}))
    assert judge.judge([]) == []


def test_a_judge_that_nothing_was_fitted_with_speaks_for_itself(
    encoder: OnnxEncoder, heads: Heads
) -> None:
    assert heads.verify is not None
    pairs = [("Ola Fenn built it.", TEXTS[0]), ("茶叶在四月采收。", TEXTS[1])]
    plain = HeadVerifier(encoder, heads, plain_calibration())
    for judgement, logit in zip(plain.judge(pairs), heads.verify.score(pairs), strict=True):
        assert judgement.support == pytest.approx(1 / (1 + np.exp(-float(logit))), rel=1e-4)


def test_a_judge_may_overrule_names_and_negations_but_no_number(
    encoder: OnnxEncoder, heads: Heads
) -> None:
    said = ("Peter Grau built it.", "Ola Fenn did not build it.", "Ola Fenn built it in 1871.")
    pairs = [(claim, TEXTS[0]) for claim in said]
    sure = Logistic(30.0, {"verified": 0.0})  # supports everything
    judge = with_functions(encoder, heads, statement=sure)
    assert [one.supported for one in judge.judge(pairs)] == [True, True, False]
    alone = with_functions(encoder, Heads(heads.read), statement=Logistic(30.0, {}))
    assert not any(one.supported for one in alone.judge(pairs))


def test_nothing_supports_nothing(encoder: OnnxEncoder, heads: Heads) -> None:
    judge = with_functions(encoder, heads, statement=Logistic(30.0, {}))  # supports everything
    pairs = [("Ola Fenn built it.", TEXTS[0]), (" \n", TEXTS[0]), ("Ola Fenn built it.", "")]
    assert [judgement.supported for judgement in judge.judge(pairs)] == [True, False, False]


def test_the_answer_that_is_read_is_the_likeliest_span(encoder: OnnxEncoder, heads: Heads) -> None:
    judge = with_functions(encoder, heads, span=Logistic(0.0, {"reader": 1.0}, threshold=0.0))
    evidence = judge.weigh(QUESTION, given_passages(TEXTS, QUESTION, encoder))
    best = max(evidence.readings, key=lambda one: one.margin)
    found = judge.read_answer(evidence)
    assert found is not None
    assert found.text == best.text
    (sentence,) = found.verdict.sentences
    assert found.text in sentence.text
    assert found.verdict.supported
    never = with_functions(encoder, heads, span=Logistic(0.0, {}, threshold=0.6))
    unsure = never.read_answer(evidence)
    assert unsure is not None
    assert not unsure.verdict.supported


def test_spans_that_say_the_same_in_several_passages_count_as_repeated(
    encoder: OnnxEncoder, heads: Heads
) -> None:
    judge = verifier(encoder, heads)
    once = judge.weigh(QUESTION, given_passages(TEXTS[:1], QUESTION, encoder))
    twice = judge.weigh(QUESTION, given_passages([TEXTS[0], TEXTS[0]], QUESTION, encoder))
    assert {row["repeated"] for row in judge.span_features(once).values()} == {0.0}
    assert max(row["repeated"] for row in judge.span_features(twice).values()) > 0
    everything = judge.weigh(QUESTION, given_passages(TEXTS * 3, QUESTION, encoder))
    assert len(judge.span_features(everything)) == SPANS


def test_a_draft_tells_of_what_was_read(encoder: OnnxEncoder, heads: Heads) -> None:
    judge = verifier(encoder, heads)
    evidence = judge.weigh(QUESTION, given_passages(TEXTS[:1], QUESTION, encoder))
    alone = judge.span_features(evidence)
    read_out = {i: evidence.readings[i].text for i in alone}
    place, text = next(iter(read_out.items()))
    same = judge.span_features(evidence, Draft(f"{text} [1]", -0.1))[place]
    assert same.items() > alone[place].items()
    assert (same["draft_agrees"], same["draft_refuses"]) == (1.0, 0.0)
    assert same["draft_answers"] == pytest.approx(math.exp(-0.1))
    other = judge.span_features(evidence, Draft("Zyx [1]", -0.1))[place]
    assert other["draft_agrees"] == 0.0
    refusal = judge.span_features(evidence, Draft("The passages do not say.", -0.2))[place]
    assert refusal["draft_refuses"] == pytest.approx(math.exp(-0.2))
    assert (refusal["draft_agrees"], refusal["draft_answers"]) == (0.0, 0.0)


def test_beside_a_draft_another_function_is_in_force(encoder: OnnxEncoder, heads: Heads) -> None:
    draft = Draft("The passages do not say.")
    alone = Logistic(0.0, {}, threshold=0.4)
    beside = Logistic(0.0, {"draft_refuses": -9.0}, threshold=0.4)
    for functions, supported in (({"span": alone}, True), ({"span_beside": beside}, False)):
        judge = with_functions(encoder, heads, **({"span": alone} | functions))
        evidence = judge.weigh(QUESTION, given_passages(TEXTS, QUESTION, encoder))
        before, after = judge.read_answer(evidence), judge.read_answer(evidence, draft)
        assert before is not None and after is not None
        assert (before.verdict.supported, after.verdict.supported) == (True, supported)


def test_what_the_reader_alone_thinks_tells_of_a_draft(encoder: OnnxEncoder, heads: Heads) -> None:
    judge = with_functions(encoder, heads, span=Logistic(1.5, {}))
    evidence = judge.weigh(QUESTION, given_passages(TEXTS, QUESTION, encoder))
    (features,) = judge.claim_features(evidence, "Ola Fenn", [[0]])
    assert features["span"] == pytest.approx(1.5)
    (without,) = verifier(encoder, heads).claim_features(evidence, "Ola Fenn", [[0]])
    assert features.keys() - without.keys() == {"span"}


def test_without_a_fitted_function_nothing_is_read(encoder: OnnxEncoder, heads: Heads) -> None:
    judge = verifier(encoder, heads)
    assert (
        judge.read_answer(judge.weigh(QUESTION, given_passages(TEXTS, QUESTION, encoder))) is None
    )


def test_without_heads_it_is_the_training_free_verifier(encoder: OnnxEncoder) -> None:
    alone = HeadVerifier(encoder, Heads(), plain_calibration())
    weighed = alone.weigh(QUESTION, given_passages(TEXTS, QUESTION, encoder))
    assert weighed.readings == []
    assert "reader" not in weighed.features[0]
    assert alone.judge([("Ola Fenn built the Zarnith bridge.", TEXTS[0])])[0].supported


def test_a_definition_is_no_span(encoder: OnnxEncoder, heads: Heads) -> None:
    function = Logistic(30.0, {}, threshold=0.1)  # believes whatever was read
    judge = with_functions(encoder, heads, span=function)
    for question, expected in ((QUESTION, True), ("What is Zarnith bridge?", False)):
        weighed = judge.weigh(question, given_passages(TEXTS, question, encoder))
        assert (judge.read_answer(weighed) is not None) == expected
        (row,) = judge.claim_features(weighed, "Ola Fenn", [[0]])
        assert "span" in row  # what was read still tells of a draft
    asked = "What is the Zarnith bridge?"  # a fact or a definition: the documents decide
    for texts, expected in ((TEXTS, True), (["The Zarnith bridge is a road of Ola Fenn."], False)):
        weighed = judge.weigh(asked, given_passages(texts, asked, encoder))
        assert (judge.read_answer(weighed) is not None) == expected
