"""Prompts: wording, worked examples and packing within a budget."""

import pytest

from ingest.documents import Chunk
from model.claims import DraftClaim, read
from model.evidence import sentences_of
from model.prompts import TRAINED, PromptOptions, build_prompt, completion, pack
from retrieval.passages import Passage

TEXTS = ["One. Two is here. Three.", "Four. Five."]


def passages() -> list[Passage]:
    return [
        Passage(i, Chunk(str(i), str(i), 0, len(text), text), "", "", 0.0)
        for i, text in enumerate(TEXTS, start=1)
    ]


def count(text: str) -> int:
    return len(text.split())


def test_a_prompt_speaks_the_language_of_the_question() -> None:
    english = build_prompt("Who?", [(1, "Ola.")], PromptOptions())
    chinese = build_prompt("谁设计的？", [(1, "林望舒。")], PromptOptions())
    assert english.as_text().endswith("[1] Ola.\nQuestion: Who?\nAnswer:")
    assert chinese.as_text().endswith("[1] 林望舒。\n问题： 谁设计的？\n答案：")
    assert "Answer:" not in chinese.as_text()


@pytest.mark.parametrize("shots", [0, 1, 3])
def test_zero_shot_and_few_shot(shots: int) -> None:
    prompt = build_prompt("Who?", [(1, "Ola.")], PromptOptions(examples=shots))
    assert len(prompt.examples) == shots
    assert prompt.as_text().count("Answer:") == shots + 1
    assert (prompt.instruction in prompt.as_text()) == (shots == 0)
    assert [m["role"] for m in prompt.as_messages()] == (
        ["system"] + ["user", "assistant"] * shots + ["user"]
    )


def test_from_memory_no_passage_is_shown() -> None:
    text = build_prompt("Who\n\nbuilt it?", [], PromptOptions()).as_text()
    assert text.startswith("Question: Who designed the Halden lighthouse?\nAnswer: Marta")
    assert text.endswith("\n\nQuestion: Who built it?\nAnswer:")


def test_only_chat_models_are_shown_how_to_cite() -> None:
    prompt = build_prompt("Who?", [(1, "Ola.")], PromptOptions())
    assert "Marta Lindqvist [2]" in prompt.as_messages()[2]["content"]
    assert "Answer: Marta Lindqvist\n" in prompt.as_text()


def test_a_trained_adapter_reads_a_bare_prompt() -> None:
    english = build_prompt("Who?", [(2, "Ola."), (1, "Fenn.")], TRAINED)
    chinese = build_prompt("谁设计的？", [(1, "林望舒。")], TRAINED)
    assert english.as_text() == "[2] Ola.\n[1] Fenn.\nQuestion: Who?\nAnswer:"
    assert chinese.as_text() == "[1] 林望舒。\n问题： 谁设计的？\n答案："
    assert english.stop == chinese.stop == ("\n",)
    assert english.as_messages() == [{"role": "user", "content": english.user}]


@pytest.mark.parametrize(
    ("question", "claims", "written"),
    [
        ("Who?", [("Marta Lindqvist", 2)], " Marta Lindqvist [2]"),
        ("谁？", [("林望舒", 2)], "林望舒[2]"),
        ("When?", [("1931", 3), ("1932", 1)], " 1931 [3]. 1932 [1]."),
        ("何时？", [("1931年", 3), ("1932年", 1)], "1931年[3]。1932年[1]。"),
        ("Who?", [], " The passages do not say."),
        ("谁？", [], "资料没有说明。"),
    ],
)
def test_what_a_trained_adapter_writes_is_read_as_it_was_meant(
    question: str, claims: list[tuple[str, int]], written: str
) -> None:
    assert completion(question, claims) == written
    stop = "。" if question.endswith("？") else "."
    ending = stop if len(claims) > 1 else ""
    assert read(written, [1, 2, 3]) == [DraftClaim(t + ending, (n,)) for t, n in claims]


def test_everything_fits_a_large_budget() -> None:
    sentences = sentences_of(passages())
    packed = pack(sentences, [0.1] * 5, count, budget=100)
    assert packed == [(1, "One. Two is here. Three."), (2, "Four. Five.")]


def test_the_likeliest_sentences_come_first_and_keep_their_order() -> None:
    sentences = sentences_of(passages())
    packed = pack(sentences, [0.3, 0.01, 0.2, 0.01, 0.9], count, budget=6)
    assert packed == [(1, "One. ... Three."), (2, "Five.")]


def test_the_likeliest_passage_stands_next_to_the_question() -> None:
    sentences = sentences_of(passages())
    packed = pack(sentences, [0.9, 0.1, 0.1, 0.2, 0.2], count, budget=100)
    assert [number for number, _ in packed] == [2, 1]


def test_the_best_sentence_stays_whatever_its_length() -> None:
    sentences = sentences_of(passages())
    assert pack(sentences, [0.0, 0.9, 0.0, 0.0, 0.0], count, budget=1) == [(1, "Two is here.")]


def test_no_passages_give_no_text() -> None:
    assert pack([], [], count, budget=10) == []
