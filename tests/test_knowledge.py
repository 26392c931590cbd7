"""The whole route on real weights: the sample knowledge answers its own questions, or says no."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.metrics import contains_answer
from model.assistant import ABSTENTION, Assistant
from model.langchain import AnswerRunnable

pytestmark = pytest.mark.weights

QUESTIONS = Path(__file__).resolve().parent.parent / "examples" / "questions.jsonl"


def questions() -> list[dict[str, Any]]:
    return [json.loads(line) for line in QUESTIONS.read_text("utf-8").splitlines()]


def test_questions_of_the_sample_knowledge(knowledge: Assistant) -> None:
    """Floors stand two below what was measured; see docs/log.md for the figures."""
    right = {"en": 0, "zh": 0}
    abstained = 0
    for row in questions():
        answer = knowledge.ask(row["question"])
        assert answer.timings.get("prompt_tokens", 0) <= 1000
        for claim in answer.claims:
            assert claim.citations
            for citation in claim.citations:
                chunk = answer.passages[citation.passage_number - 1].chunk
                span = slice(citation.start - chunk.start, citation.end - chunk.start)
                assert chunk.text[span] == citation.quote
                assert chunk.document_id == citation.document_id
        if row["answer"] is None:
            abstained += answer.status == "abstained"
        else:
            quotes = " ".join(c.quote for claim in answer.claims for c in claim.citations)
            holds = contains_answer(f"{answer.text} {quotes}", [row["answer"]], row["language"])
            right[row["language"]] += holds
    assert abstained == 4
    assert right["en"] >= 6 and right["zh"] >= 6, right


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("In which year was the transformer introduced?", "2017"),
        ("预训练是一种什么压缩？", "有损压缩"),
    ],
)
def test_an_answer_in_each_language(knowledge: Assistant, question: str, words: str) -> None:
    answer = knowledge.ask(question)
    assert answer.status == "supported"
    assert words in answer.claims[0].citations[0].quote


@pytest.mark.parametrize(
    ("question", "language"),
    [("Who won the 2014 World Cup final?", "en"), ("红烧肉要炖多长时间？", "zh")],
)
def test_what_the_documents_do_not_say(knowledge: Assistant, question: str, language: str) -> None:
    answer = knowledge.ask(question)
    assert (answer.status, answer.text) == ("abstained", ABSTENTION[language])


def test_two_runs_give_one_result(knowledge: Assistant) -> None:
    question = "What does LoRA stand for?"
    first, second = (knowledge.ask(question) for _ in range(2))
    assert (first.text, first.claims) == (second.text, second.claims)


def test_the_assistant_is_a_langchain_runnable(knowledge: Assistant) -> None:
    answer = AnswerRunnable(knowledge).invoke("Transformer 是哪一年提出的？")
    assert "2017" in answer.claims[0].citations[0].quote
