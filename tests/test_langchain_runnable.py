"""The assistant behaves as a LangChain Runnable."""

import asyncio
from collections.abc import Iterator

import pytest
from langchain_core.runnables import RunnableGenerator, RunnableLambda

from ingest.errors import QuestionError, UsageError
from model.answers import Answer
from model.assistant import ABSTENTION, Assistant, Drafted, Finished, Retrieved
from model.generators import ScriptedGenerator
from model.langchain import AnswerRunnable
from model.verifier import Calibration, Logistic, OverlapVerifier
from retrieval.encoders import HashingEncoder
from retrieval.passages import Passage
from retrieval.search import given_passages

QUESTION = "Who keeps the Orrin lantern?"
TEXTS = ["The Orrin lantern burns all night. Tilda Varn keeps the Orrin lantern.", "盐湖在南边。"]


class FixedSearcher:
    """Finds the same two texts for every question."""

    def search(self, question: str, *, top_k: int | None = None) -> list[Passage]:
        return given_passages(TEXTS, question, HashingEncoder())[:top_k]


@pytest.fixture
def generator() -> ScriptedGenerator:
    return ScriptedGenerator({QUESTION: "Tilda Varn [1]"}, default="Nobody Else [1]")


@pytest.fixture
def runnable(generator: ScriptedGenerator) -> AnswerRunnable:
    by_terms = Logistic(bias=-5.0, weights={"terms": 10.0})
    languages = ("en", "zh")
    calibration = Calibration(
        sentence=dict.fromkeys(languages, Logistic(-5.0, {"terms": 10.0}, threshold=1.0)),
        statement=dict.fromkeys(languages, by_terms),
        answer=dict.fromkeys(languages, by_terms),
        abstain_below=dict.fromkeys(languages, 0.1),
    )
    return AnswerRunnable(
        Assistant(
            generator=generator,
            verifier=OverlapVerifier(HashingEncoder(), calibration),
            searcher=FixedSearcher(),
        )
    )


def test_invoke_answers_a_text_and_a_mapping(runnable: AnswerRunnable) -> None:
    answer = runnable.invoke(QUESTION)
    assert (answer.status, answer.text) == ("supported", "Tilda Varn [1]")
    assert answer.claims[0].citations[0].quote in TEXTS[0]
    assert runnable.invoke({"question": QUESTION}).text == answer.text
    assert asyncio.run(runnable.ainvoke(QUESTION)).text == answer.text


def test_a_mapping_carries_the_assistants_other_arguments(runnable: AnswerRunnable) -> None:
    assert len(runnable.invoke({"question": QUESTION, "top_k": 1}).passages) == 1
    assert runnable.invoke({"question": QUESTION, "retrieval": False}).status == "unverified"
    given = {"question": QUESTION, "passages": given_passages([], QUESTION, HashingEncoder())}
    assert runnable.invoke(given).text == ABSTENTION["en"]


@pytest.mark.parametrize("wrong", [{"query": QUESTION}, {"question": 3}, 3, {}])
def test_what_is_no_question_is_refused(runnable: AnswerRunnable, wrong: object) -> None:
    with pytest.raises(UsageError, match="not a question"):
        runnable.invoke(wrong)  # type: ignore[arg-type]


def test_an_unknown_key_and_an_empty_question_are_refused(runnable: AnswerRunnable) -> None:
    with pytest.raises(UsageError, match="unknown key 'topk'"):
        runnable.invoke({"question": QUESTION, "topk": 1})
    with pytest.raises(QuestionError):
        runnable.invoke(" ")


def test_stream_yields_the_assistants_events(runnable: AnswerRunnable) -> None:
    events = list(runnable.stream(QUESTION))
    assert [type(event) for event in events[:2]] == [Retrieved, Drafted]
    assert "".join(e.text for e in events if isinstance(e, Drafted)) == "Tilda Varn [1]"
    assert isinstance(events[-1], Finished)
    assert events[-1].answer.text == runnable.invoke(QUESTION).text


def test_batch_keeps_the_order(runnable: AnswerRunnable) -> None:
    answers = runnable.batch([QUESTION, "Who paints the Orrin lantern?"])
    assert [answer.text for answer in answers] == ["Tilda Varn [1]", ABSTENTION["en"]]


def test_a_chain_passes_on_answers_and_never_drafts(runnable: AnswerRunnable) -> None:
    seen: list[Answer] = []

    def text_of(answer: Answer) -> str:
        seen.append(answer)
        return answer.text

    chain = runnable | RunnableLambda(text_of)
    assert chain.invoke(QUESTION) == "Tilda Varn [1]"
    assert list(chain.stream(QUESTION)) == ["Tilda Varn [1]"]
    assert {type(answer) for answer in seen} == {Answer}


def test_a_question_streamed_by_the_link_before_is_put_together(runnable: AnswerRunnable) -> None:
    def letters(_: Iterator[str]) -> Iterator[str]:
        yield from QUESTION

    (answer,) = (RunnableGenerator(letters) | runnable).stream("go")
    assert answer.text == "Tilda Varn [1]"


def test_callbacks_see_the_run(runnable: AnswerRunnable) -> None:
    runs: list[str] = []
    listening = runnable.with_listeners(on_end=lambda run: runs.append(run.name))
    listening.invoke(QUESTION)
    assert runs == ["AnswerRunnable"]
