"""Languages and sentence spans, for Chinese, English and both at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.languages import detect_language, split_sentences


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in split_sentences(text)]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("什么是 RAG?", "zh"),
        ("RAG 和 LoRA 有什么区别？", "zh"),
        ("谁写了 Harry Potter?", "zh"),
        ("你好", "zh"),
        ("hello", "en"),
        ("Mao 毛泽东 was born in Shaoshan in 1893 and grew up there", "en"),
        ("hello 你好 world 世界", "mixed"),
        ("今天的 meeting 很重要 please come", "mixed"),
        ("", "und"),
        ("3.14 + 42 = ?", "und"),
        ("Привет, мир", "und"),
        ("これはテストです", "und"),
    ],
)
def test_language_by_script(text: str, language: str) -> None:
    assert detect_language(text) == language


def test_long_text_is_judged_by_all_its_parts() -> None:
    english, chinese = "the same words again " * 20_000, "中文内容在后面" * 20_000
    assert detect_language(english + chinese) == detect_language(chinese + english) == "mixed"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("他走了。真的吗？好！", ["他走了。", "真的吗？", "好！"]),
        ("他说：“你好！”然后走了。", ["他说：“你好！”", "然后走了。"]),
        ("（见下文。）另有一点；完", ["（见下文。）", "另有一点；", "完"]),
        ("好……我不知道。", ["好……", "我不知道。"]),
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('"Why?" he asked. (See Fig. 2.) Done.', ['"Why?" he asked.', "(See Fig. 2.)", "Done."]),
        ("A fact.[12] Another.", ["A fact.[12]", "Another."]),
        ("Well... maybe. So... Yes.", ["Well... maybe.", "So...", "Yes."]),
        ("见 Tether.然后走。Then stop.", ["见 Tether.", "然后走。", "Then stop."]),
        ("1.第一点，2.第二点。", ["1.第一点，2.第二点。"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize(
    "sentence",
    [
        "Dr. Smith met Mr. Li and Prof. Chen.",
        "Pi is 3.14 and v2.0 is at example.com today.",
        "Use a tool, e.g. Monday or i.e. Sunday.",
        "He joined the U.S. Army in 1950.",
        "J. K. Rowling wrote it.",
        "See No. 5 and Fig. 3 of Vol. 2.",
        "Acme Inc. Boston sells them.",
        "作者是J.K.罗琳。",
    ],
)
def test_a_dot_that_ends_nothing(sentence: str) -> None:
    assert sentences(sentence) == [sentence]


def test_an_abbreviation_can_still_end_a_sentence() -> None:
    assert sentences("They moved to the U.S. The law helped.") == [
        "They moved to the U.S.",
        "The law helped.",
    ]


def test_line_breaks() -> None:
    text = "# Title\nA line\nthat wraps. Next\n- one\n- two\n  goes on\n2. three\n\nEnd\nof it"
    assert sentences(text) == [
        *("# Title", "A line\nthat wraps.", "Next"),
        *("- one", "- two\n  goes on", "2. three", "End\nof it"),
    ]


def test_table_rows_chinese_items_and_windows_line_ends() -> None:
    assert sentences("a | b\r\nc | d\r\n\r\n第一章 总则\r\n第一条 目的\r\n一、甲\r\n（二）乙") == [
        *("a | b", "c | d", "第一章 总则", "第一条 目的", "一、甲", "（二）乙"),
    ]


PIECES = st.sampled_from(
    [
        *"。！？；…”」.!?\"'[1] \n\t\r#-*|中文éA b7",
        "Dr.",
        "U.S.",
        "\n\n",
        " | ",
        "😀",
        "1.",
        "......",
    ]
)


@given(st.one_of(st.text(), st.lists(PIECES, max_size=60).map("".join)))
def test_spans_cover_all_but_white_space(text: str) -> None:
    position = 0
    for start, end in split_sentences(text):
        assert position <= start < end
        assert not text[position:start].strip()
        assert not text[start].isspace()
        assert not text[end - 1].isspace()
        position = end
    assert not text[position:].strip()


@pytest.mark.timeout(20)  # each takes a fraction of a second; quadratic time would take minutes
@pytest.mark.parametrize(
    "unit", ["a", "中", ".", ". ", ".a", " ", "\n ", "| ", "#", "-", "[1]", '"', ".[1", "A.", "…x"]
)
def test_hostile_text_takes_linear_time(unit: str) -> None:
    text = unit * (200_000 // len(unit)) + "x"
    assert split_sentences(text)[-1][1] == len(text)
    detect_language(text)
