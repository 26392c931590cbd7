"""What a question or a claim shares with evidence, on worked examples."""

from dataclasses import replace

import pytest

from ingest.documents import Chunk
from model import evidence as ev
from retrieval.passages import Passage


def passage(text: str, number: int = 1, start: int = 0) -> Passage:
    chunk = Chunk(f"c{number}", f"d{number}", start, start + len(text), text)
    return Passage(number, chunk, "Title", "file.txt", 1.0, ("given",), 0.8)


def test_content_terms_meet_across_word_forms() -> None:
    for forms in (
        ("designs", "designed", "designing", "design"),
        ("stories", "story"),
        ("stopped", "stops"),
    ):
        assert len({tuple(ev.content_terms(form)) for form in forms}) == 1
    assert ev.content_terms("Who was the designer of it?") == ["designer"]


def test_chinese_terms_are_character_pairs_cut_at_particles() -> None:
    assert ev.content_terms("青石桥是谁设计的？") == ["青石", "石桥", "设计"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,200 people", {"1200"}),
        ("一百二十人", {"120"}),
        ("二〇〇八年", {"2008"}),
        ("三万五千", {"35000"}),
        ("3.5% in ２０２０", {"3.5", "2020"}),
        ("十", set()),
        ("三年", {"3"}),
        ("三明市", set()),
        ("一亿二千万", {"120000000"}),
        ("十四亿五千万", {"1450000000"}),
        ("一万亿", {"1000000000000"}),
        ("3万人", {"30000"}),
        ("1.2亿, 2万亿", {"120000000", "2000000000000"}),
        ("4.1 million, 3 thousandths", {"4100000", "3"}),
        ("at 10:30 万", {"10:30"}),
        ("三分之二", {"3", "2"}),
        ("no digits", set()),
    ],
)
def test_numbers_have_one_form(text: str, found: set[str]) -> None:
    assert ev.numbers(text) == found


def test_names_are_capitalised_words_but_not_every_first_word() -> None:
    assert ev.names("Builders came. Peter Fenn met Marta's aunt.") == {"peter", "fenn", "marta"}
    assert ev.names("Ola Fenn") == {"ola", "fenn"}
    assert ev.names("The bridge") == set()


def test_negation_is_counted() -> None:
    assert ev.is_negated("It does not float.")
    assert ev.is_negated("它没有沉没。")
    assert not ev.is_negated("It floats.")
    assert not ev.is_negated("他不是不去。")


def test_coverage_weighs_terms() -> None:
    assert ev.coverage(["a", "b"], ["a"]) == 0.5
    assert ev.coverage(["a", "b"], ["a"], {"a": 3.0, "b": 1.0}) == 0.75
    assert ev.coverage([], ["a"]) == 1.0


def test_sentences_keep_document_offsets() -> None:
    text = "First one. Second one. 第三句。"
    document = "x" * 100 + text
    found = ev.sentences_of([passage(text, start=100)])
    assert [s.text for s in found] == ["First one.", "Second one.", "第三句。"]
    assert all(document[s.start : s.end] == s.text for s in found)


@pytest.mark.parametrize("heading", ["# Bridges", "The reversal curse", "反转诅咒"])
def test_a_heading_is_no_sentence(heading: str) -> None:
    found = ev.sentences_of([passage(f"{heading}\n\nOla Fenn built it.")])
    assert [s.text for s in found] == ["Ola Fenn built it."]
    assert [s.text for s in ev.sentences_of([passage(heading)])] == [heading]


def test_what_a_document_calls_itself_is_no_evidence() -> None:
    title = "The reversal curse and why it matters to all who train"
    text = f"{title}\n\nIt was found in 2023."
    headed = replace(passage(text), title=title)
    assert [s.text for s in ev.sentences_of([headed])] == ["It was found in 2023."]
    section = replace(passage(text), chunk=replace(passage(text).chunk, heading=f"Book > {title}"))
    assert [s.text for s in ev.sentences_of([section])] == ["It was found in 2023."]
    alone = replace(passage(title), title=title)
    assert [s.text for s in ev.sentences_of([alone])] == [title]  # nothing else is there
    assert [s.text for s in ev.sentences_of([alone, passage("It is so.")])] == ["It is so."]
    said = replace(passage("The bridge opened in 1931."), title="The bridge opened in 1931.")
    assert len(ev.sentences_of([said, passage("It is so.")])) == 2  # a sentence, not a heading


def test_a_list_item_is_evidence() -> None:
    found = ev.sentences_of([passage("- Greedy decoding\n- Beam search\n\nBoth are common.")])
    assert [s.text for s in found] == ["Greedy decoding", "Beam search", "Both are common."]


@pytest.mark.parametrize(
    ("question", "sentence", "match"),
    [
        ("When did it open?", "It opened in 1931.", 1.0),
        ("When did it open?", "It opened early.", -1.0),
        ("How many came in 1931?", "In 1931 many came.", -1.0),
        ("Who built it?", "It was built by Ola Fenn.", 1.0),
        ("Why did it fall?", "It fell in 1931.", 0.0),
        ("青石桥建于哪一年？", "青石桥建于1897年。", 1.0),
        ("青石桥建于哪一年？", "青石桥很长。", -1.0),
    ],
)
def test_the_kind_of_thing_asked_for(question: str, sentence: str, match: float) -> None:
    assert ev.type_match(question, sentence) == match


def test_text_without_punctuation_is_cut_into_readable_pieces() -> None:
    text = "word " * 1000 + "长" * 1000
    found = ev.sentences_of([passage(text)])
    assert all(0 < len(s.text) <= ev.LONGEST_SENTENCE for s in found)
    assert all(text[s.start : s.end] == s.text for s in found)
    assert "".join("".join(s.text.split()) for s in found) == "".join(text.split())
