"""Which questions ask for a definition, and which sentences are one."""

import pytest

from model.definitions import asked_term, asks_for_definition, definitions_of
from model.evidence import sentences_of
from tests.test_sentences import passage


@pytest.mark.parametrize(
    "question",
    [
        "What is catastrophic forgetting?", "what are language models", "What does RLHF mean?",
        "What's a reward model?", "什么是灾难性遗忘？", "何谓检索增强",
        "什麼叫幻覺？", "RAG 是什么意思？",
    ],
)  # fmt: skip
def test_questions_for_a_definition(question: str) -> None:
    assert asks_for_definition(question)


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of France?", "What is his name?", "What is France's capital?",
        "What is added to water?", "Who is Ada?", "When was LoRA introduced?",
        "什么是法国的首都？", "法国的首都是什么？", "什么时候",
    ],
)  # fmt: skip
def test_questions_for_one_fact(question: str) -> None:
    assert not asks_for_definition(question)


@pytest.mark.parametrize(
    ("question", "term"),
    [
        ("What is the reversal curse?", "reversal curse"), ("what's LoRA", "lora"),
        ("What does RLHF mean?", "rlhf"), ("什麼是詞元？", "词元"), ("Tether 是什么？", "tether"),
        ("RAG 是什么意思？", "rag"), ("请问反转诅咒指的是什么？", "反转诅咒"),
        ("What is the capital of France?", None), ("法国的首都是什么？", None),
        ("When was LoRA introduced?", None), ("什么时候", None),
    ],
)  # fmt: skip
def test_the_term_that_is_asked(question: str, term: str | None) -> None:
    assert asked_term(question) == term


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("What is a token?", "A token is a short piece of text."),
        ("What is abstention?", "Abstention means that nothing is said."),
        ("What are embeddings?", "An embedding is a list of numbers."),
        ("What is LoRA?", "LoRA (2021) stands for low-rank adaptation."),
        ("What is full tuning?", "Training every weight is called “full tuning”."),
        ("什么是词元？", "詞元是一小段文字。"),
        ("什么是采样？", "采样是指随机抽取。"),
        ("LoRA 是什么？", "LoRA 的意思是低秩适配。"),
        ("什么是交叉熵？", "预训练所降低的误差叫做交叉熵。"),
    ],
)
def test_a_definition(question: str, sentence: str) -> None:
    before = sentences_of([passage("It was so before.")])
    found = definitions_of(question, before + sentences_of([passage(sentence, 2)]))
    assert {place: one.text for place, one in found.items()} == {1: sentence}


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("What is a token?", "A token is not a word."),
        ("What is abstention?", "Abstention is better than a guess."),
        ("What is the deadline?", "The deadline is May 5."),
        ("What is the transformer?", "The transformer is the most common model."),
        ("What is a token?", "A token economy is a way of teaching."),
        ("What is a token?", "A game is called token ring."),
        ("什么是拒答？", "拒答比猜测好。"),
        ("什么是拒答？", "拒答不是错误。"),
        ("什么是词元？", "词元是由分词器切出的。"),
        ("什么是微调？", "这叫做全量微调的代价。"),
        ("什么是词元？", "词元是什么"),
        ("什么是词元？", "词元是一小段文字吗？"),
        ("Who built it?", "It is a bridge."),
    ],
)
def test_what_says_something_else_is_no_definition(question: str, sentence: str) -> None:
    assert definitions_of(question, sentences_of([passage(sentence)])) == {}


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (
            "What is the curse?",
            "“A is B” teaches\r\nno “B is A”. This failure is called the curse.",
        ),
        ("什么是反转诅咒？", "用“A 是 B”训练，不会学会“B 是 A”。这种失败叫做反转诅咒。"),
        ("什么是反转诅咒？", "用“A 是 B”训练，不会学会“B 是 A”。这就是反转诅咒。"),
    ],
)
def test_what_refers_back_takes_the_sentence_before_along(question: str, text: str) -> None:
    opening = "It is 𠮷 known. "
    place = passage(opening + text, start=30)
    sentences = sentences_of([place])
    (whole,) = definitions_of(question, sentences).values()
    assert whole.text == text
    assert (opening + text)[whole.start - 30 : whole.end - 30] == text


def test_what_refers_back_to_nothing_is_no_definition() -> None:
    torn = sentences_of([passage("Another one."), passage("It is called a curse.", 2)])
    assert definitions_of("What is a curse?", torn) == {}
    assert definitions_of("What is a curse?", torn[1:]) == {}
