"""Chunks: exact spans, full cover, size limits, headings, pages and overlap."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.chunking import ChunkingOptions, split
from ingest.documents import Chunk, Document, Section, chunk_id, content_id
from ingest.errors import SettingsError
from ingest.pipeline import ListSink

count_tokens = ListSink().count_tokens


def document_of(text: str, sections: tuple[Section, ...] = ()) -> Document:
    return Document(content_id(text), "/a.txt", "a", text, "en", "text/plain", {}, sections)


def texts(chunks: list[Chunk]) -> list[str]:
    return [chunk.text for chunk in chunks]


def test_whole_sentences_are_packed_up_to_the_limit() -> None:
    document = document_of("One two three. Four five six. Seven eight nine. 四五六。")
    chunks = split(document, count_tokens, ChunkingOptions(max_tokens=8))
    assert texts(chunks) == ["One two three. Four five six.", "Seven eight nine. 四五六。"]
    assert chunks[0].id == chunk_id(document.id, 0, 29)
    assert chunks[0].document_id == document.id


def test_overlap_repeats_last_sentences_within_its_budget() -> None:
    document = document_of("Two two. Six six six six. Ten ten.")
    chunks = split(document, count_tokens, ChunkingOptions(max_tokens=8, overlap_tokens=5))
    assert texts(chunks) == ["Two two. Six six six six.", "Six six six six. Ten ten."]


def test_headings_and_pages_part_chunks() -> None:
    text = "Alpha. Beta. Gamma. Delta."
    sections = (
        Section(0, "A", 1),
        Section(7, "A", 1),
        Section(13, "A", 2),
        Section(20, "A > B", 2),
    )
    chunks = split(document_of(text, sections), count_tokens, ChunkingOptions())
    assert [(c.text, c.heading, c.page) for c in chunks] == [
        ("Alpha. Beta.", "A", 1),
        ("Gamma.", "A", 2),
        ("Delta.", "A > B", 2),
    ]


def test_text_before_the_first_section_has_no_heading() -> None:
    chunks = split(document_of("Alpha. Beta.", (Section(7, "B"),)), count_tokens, ChunkingOptions())
    assert [(c.text, c.heading) for c in chunks] == [("Alpha.", ""), ("Beta.", "B")]


def test_a_long_sentence_is_cut_at_its_commas() -> None:
    clause = "这是一个很长的分句，"
    chunks = split(document_of(clause * 12), count_tokens, ChunkingOptions(max_tokens=40))
    assert all(chunk.text.endswith("，") for chunk in chunks)
    assert "".join(texts(chunks)) == clause * 12


@pytest.mark.parametrize(
    "text", ["中" * 10_000, "😀" * 3_000, "a-" * 5_000, "x" * 500 + "中" * 900]
)
def test_text_without_spaces_respects_the_limit(text: str) -> None:
    chunks = split(document_of(text), count_tokens, ChunkingOptions(max_tokens=50))
    assert "".join(texts(chunks)) == text
    assert max(count_tokens(chunk.text) for chunk in chunks) <= 50
    assert len(chunks) <= 2 * count_tokens(text) / 50 + 1


def test_each_sentence_is_counted_once() -> None:
    counted: list[str] = []

    def counting(text: str) -> int:
        counted.append(text)
        return count_tokens(text)

    split(document_of("One two. " * 500), counting, ChunkingOptions(max_tokens=60))
    assert counted == ["One two."] * 500


@pytest.mark.parametrize("word", ["word ", "字"])
def test_a_line_without_end_is_counted_in_parts(word: str) -> None:
    longest = 0

    def counting(text: str) -> int:
        nonlocal longest
        longest = max(longest, len(text))
        return count_tokens(text)

    text = (word * 60_000)[:60_000].strip()
    chunks = split(document_of(text), counting, ChunkingOptions(max_tokens=200))
    assert longest <= 20_000  # tokens of 8 MB took 1.4 GB
    assert " ".join(texts(chunks)).replace(" ", "") == text.replace(" ", "")
    assert all(chunk.text == text[chunk.start : chunk.end].strip() for chunk in chunks)
    assert not any(chunk.text.startswith("ord") for chunk in chunks)


def test_blank_text_has_no_chunks() -> None:
    assert split(document_of(" \n\t\n "), count_tokens, ChunkingOptions()) == []


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (10, 10), (10, -1)])
def test_impossible_sizes_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(SettingsError, match="choose"):
        ChunkingOptions(max_tokens=size, overlap_tokens=overlap)


TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    st.lists(
        st.sampled_from(
            ["中文", "，", "。", "word ", "Dr. ", ". ", "\n", "\n\n", "😀", "- ", "é", " | "]
        ),
        max_size=120,
    ).map("".join),
)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    text = draw(TEXTS)
    starts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    sections = tuple(
        Section(
            start, draw(st.sampled_from(["", "A", "A > B"])), draw(st.sampled_from([None, 1, 2]))
        )
        for start in starts
    )
    return document_of(text, sections)


def place(document: Document, position: int) -> tuple[str, int | None]:
    """Return the heading and page that hold at a character."""
    before = [s for s in document.sections if s.start <= position]
    return (before[-1].heading, before[-1].page) if before else ("", None)


@given(documents(), st.integers(1, 30), st.integers(0, 29))
def test_chunk_invariants(document: Document, size: int, overlap: int) -> None:
    options = ChunkingOptions(size, min(overlap, size - 1))
    chunks = split(document, count_tokens, options)
    covered: set[int] = set()
    for chunk in chunks:
        assert chunk.text == document.text[chunk.start : chunk.end]
        assert chunk.text.strip() == chunk.text != ""
        assert count_tokens(chunk.text) <= size
        for position in range(chunk.start, chunk.end):
            if not document.text[position].isspace():
                assert place(document, position) == (chunk.heading, chunk.page)
        covered.update(range(chunk.start, chunk.end))
    assert all(c.isspace() or i in covered for i, c in enumerate(document.text))
    assert [c.start for c in chunks] == sorted({c.start for c in chunks})
    if options.overlap_tokens == 0:
        assert all(a.end <= b.start for a, b in pairwise(chunks))


def test_a_chunk_ends_before_a_paragraph_rather_than_inside_one() -> None:
    document = document_of("A b c d. E f g h.\n\nI j k l. M n o p. Q r s t.")
    chunks = split(document, count_tokens, ChunkingOptions(max_tokens=17))
    assert texts(chunks) == ["A b c d. E f g h.", "I j k l. M n o p. Q r s t."]


@pytest.mark.parametrize("edit", ["", "An inserted sentence. ", "又加了一句话。"])
def test_after_an_edit_the_old_boundaries_return(edit: str) -> None:
    chooser = random.Random(7)
    sentences = [
        " ".join(f"W{chooser.randrange(5000)}" for _ in range(chooser.randrange(3, 20))) + "."
        for _ in range(1000)
    ]
    before = document_of(" ".join(sentences))
    sentences[300] = edit + "Other words stand here now."
    after = document_of(" ".join(sentences))
    known = set(texts(split(before, count_tokens, ChunkingOptions(max_tokens=60))))
    chunks = texts(split(after, count_tokens, ChunkingOptions(max_tokens=60)))
    assert 1 <= sum(text not in known for text in chunks) <= 8 < len(chunks) / 20
