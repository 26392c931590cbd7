"""Verification on worked examples, with plain functions instead of the fitted ones."""

import numpy as np
import pytest

from model.verifier import (
    MOST_SENTENCES,
    Calibration,
    Logistic,
    OverlapVerifier,
    QuestionEvidence,
    Verdict,
    default_calibration,
    read_calibration,
    split_evidence,
    statement_features,
)
from retrieval.encoders import Encoder, HashingEncoder
from retrieval.search import given_passages

TEXTS = [
    "The Zarnith bridge was built by Ola Fenn in 1931. It is 41 metres long.",
    "Tea from Orra is harvested in April. It is exported to Portugal.",
]


def plain_calibration(threshold: float = 0.5) -> Calibration:
    sentence = Logistic(-3.0, {"terms": 6.0}, threshold)
    statement = Logistic(-3.0, {"terms": 6.0}, threshold)
    answer = Logistic(-3.0, {"terms": 4.0, "relevance": 1.0}, threshold)
    return Calibration(
        sentence={"en": sentence, "zh": sentence},
        statement={"en": statement, "zh": statement},
        answer={"en": answer, "zh": answer},
        abstain_below={"en": 0.05, "zh": 0.05},
    )


def evidence(question: str) -> QuestionEvidence:
    encoder = HashingEncoder()
    passages = given_passages(TEXTS, question, encoder)
    return QuestionEvidence(question, passages, encoder, plain_calibration())


def judge(found: QuestionEvidence, claim: str, cited: list[int]) -> Verdict:
    return OverlapVerifier(HashingEncoder(), plain_calibration()).judge_answer(found, claim, cited)


def test_a_supported_claim_and_one_from_elsewhere() -> None:
    verifier = OverlapVerifier(HashingEncoder(), plain_calibration())
    good, bad = verifier.judge(
        [("Ola Fenn built the Zarnith bridge.", TEXTS[0]), ("Ola Fenn built it.", TEXTS[1])]
    )
    assert good.supported and good.support > 0.9
    assert not bad.supported and bad.support < good.support


def test_a_number_missing_from_the_evidence_is_never_supported() -> None:
    verifier = OverlapVerifier(HashingEncoder(), plain_calibration(threshold=0.0))
    right, wrong = verifier.judge(
        [
            ("The Zarnith bridge was built in 1931.", TEXTS[0]),
            ("The Zarnith bridge was built in 1932.", TEXTS[0]),
        ]
    )
    assert right.supported
    assert not wrong.supported


def test_judging_a_batch_equals_judging_one_by_one(e5_encoder: Encoder) -> None:
    verifier = OverlapVerifier(e5_encoder)
    pairs = [("Ola Fenn built the bridge.", TEXTS[0]), ("茶叶在四月采收。", TEXTS[1]), ("x", "y")]
    together = [j.support for j in verifier.judge(pairs)]
    alone = [verifier.judge([pair])[0].support for pair in pairs]
    assert together == pytest.approx(alone, abs=1e-4)


def test_nothing_to_judge() -> None:
    assert OverlapVerifier(HashingEncoder(), plain_calibration()).judge([]) == []


def test_evidence_without_a_sentence_is_taken_whole() -> None:
    assert split_evidence("...", "A claim.") == ["..."]
    features = statement_features("A claim.", ["..."], 0.0)
    assert np.isfinite(list(features.values())).all()


def test_the_sentence_that_answers_is_the_likeliest() -> None:
    found = evidence("Who built the Zarnith bridge?")
    index, relevance = found.best()
    assert found.sentences[index].text.startswith("The Zarnith bridge")
    assert relevance == max(found.relevance)


def test_of_very_many_sentences_the_nearest_are_weighed() -> None:
    encoder = HashingEncoder()
    question = "Who built the Zarnith bridge?"
    noise = " ".join(f"Item {i} is stored in cupboard {i}." for i in range(500))
    passages = given_passages([noise, TEXTS[0]], question, encoder)
    found = QuestionEvidence(question, passages, encoder, plain_calibration())
    assert len(found.sentences) == MOST_SENTENCES
    assert "Ola Fenn" in found.sentences[found.best()[0]].text


@pytest.mark.parametrize(
    ("claim", "evidence"),
    [
        ("Peter Fenn built the Zarnith bridge in 1931.", TEXTS[0]),
        ("Ola Fenn did not build the Zarnith bridge.", TEXTS[0]),
        ("The Zarnith bridge was not built by Ola Fenn in 1931.", TEXTS[0]),
        ("Ola Fenn built the Zarnith bridge.", "Ola Fenn never built the Zarnith bridge."),
        ("青石桥不是建成于1897年。", "青石桥建成于1897年。"),
        ("工程历时三年，林望舒主持。", "工程历时五年，林望舒主持。"),
        ("It is.", TEXTS[0]),
        ("的", "的确如此。"),
    ],
)
def test_rules_that_no_weight_can_switch_off(claim: str, evidence: str) -> None:
    verifier = OverlapVerifier(HashingEncoder(), plain_calibration(threshold=0.0))
    assert not verifier.judge([(claim, evidence)])[0].supported
    passages = given_passages([evidence], "Is this so?", HashingEncoder())
    weighed = verifier.weigh("Is this so?", passages)
    assert not verifier.judge_answer(weighed, claim, [1]).supported


def test_what_is_no_number_supports_nothing() -> None:
    function = Logistic(0.0, {"similarity": 1.0})
    assert function.probability({"similarity": float("nan")}) == 0.0
    assert function.probability({"similarity": float("inf")}) > 0.99


@pytest.mark.parametrize("question", ["!!!", "Who?", "What is it?", "什么？"])
def test_a_question_without_content_is_met_by_nothing(question: str) -> None:
    assert evidence(question).best()[1] < 0.1


def test_a_calibration_for_another_encoder_warns(caplog: pytest.LogCaptureFixture) -> None:
    OverlapVerifier(HashingEncoder())
    assert "fitted for the encoder multilingual-e5-small, not for hashing" in caplog.text


def test_very_long_evidence_is_judged_by_its_nearest_sentences() -> None:
    noise = " ".join(f"Item {i} is stored in cupboard {i}." for i in range(500))
    verifier = OverlapVerifier(HashingEncoder(), plain_calibration())
    claim = "Ola Fenn built the Zarnith bridge."
    assert len(split_evidence(f"{noise} {TEXTS[0]}", claim)) == MOST_SENTENCES
    assert verifier.judge([(claim, f"{noise} {TEXTS[0]}")])[0].supported


def test_a_claim_is_cited_to_the_passage_that_holds_it_not_to_the_one_it_names() -> None:
    verdict = judge(evidence("Who built the Zarnith bridge?"), "Ola Fenn", cited=[2])
    assert verdict.supported
    assert [s.passage.number for s in verdict.sentences] == [1]
    assert "Ola Fenn" in verdict.sentences[0].text


def test_a_claim_that_no_passage_holds_is_rejected() -> None:
    verdict = judge(evidence("Who built the Zarnith bridge?"), "Marta Lindqvist", cited=[1])
    assert not verdict.supported


def test_a_claim_over_two_sentences_cites_both() -> None:
    claim = "Ola Fenn built the bridge, which is 41 metres long"
    verdict = judge(evidence("Who built the Zarnith bridge?"), claim, cited=[1])
    assert [s.text for s in verdict.sentences] == [
        "The Zarnith bridge was built by Ola Fenn in 1931.",
        "It is 41 metres long.",
    ]


def test_the_shipped_calibration_covers_both_languages_and_names_its_origin() -> None:
    calibration = default_calibration()
    for functions in (calibration.sentence, calibration.statement, calibration.answer):
        assert set(functions) == {"en", "zh"}
        assert all(0.0 < function.threshold <= 1.0 for function in functions.values())
    assert {"command", "commit", "encoder", "sets", "figures"} <= set(calibration.provenance)
    assert str(calibration.provenance["command"]).startswith("python -m benchmarks.calibrate")


def test_a_calibration_without_provenance_is_refused() -> None:
    with pytest.raises(KeyError):
        read_calibration('{"sentence": {}, "statement": {}, "answer": {}, "abstain_below": {}}')
