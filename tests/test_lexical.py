"""Lexical search: the full ranking within its budget, and nearly so beyond it."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.documents import Chunk, Document, chunk_id, content_id
from retrieval.encoders import HashingEncoder
from retrieval.lexical import Hit, LexicalSearch
from retrieval.store import Collection, open_collection
from retrieval.terms import query_expression

WORDS = [f"{letter}{number}" for number in range(20) for letter in "abcdef"]
QUERIES = ["a0 b7 f19", "c0 d0", "e3", "a19 f18 b0 c1 d2", "nowhere a0", "绿茶 a2", "nowhere"]


def add_document(collection: Collection, lines: list[str]) -> None:
    """Add one document of one chunk a line."""
    text = "\n".join(lines)
    identity, start, chunks = content_id(text), 0, []
    for line in lines:
        end = start + len(line)
        chunks.append(Chunk(chunk_id(identity, start, end), identity, start, end, line))
        start = end + 1
    made = Document(identity, "", "", text, "und", "text/plain")
    collection.add(f"file:{identity}", identity, made, chunks)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """Return 600 chunks in which word number n is met about 1 / (n + 1) as often as the first."""
    draw = random.Random(0)
    weights = [1 / (number + 1) for number in range(len(WORDS))]
    lines = [" ".join(draw.choices(WORDS, weights, k=draw.randint(4, 20))) for _ in range(600)]
    lines[77] += " 绿茶"
    home: Path = tmp_path_factory.mktemp("lexical")
    with open_collection(home, "words", HashingEncoder(), create=True) as opened:
        add_document(opened, lines)
        yield opened


def full(collection: Collection, query: str, top_k: int) -> list[Hit]:
    """Return the ranking of all chunks that hold any term."""
    found = collection.match_terms(query_expression(query), top_k=top_k)
    return [Hit(*pair) for pair in found]


@pytest.mark.parametrize("query", QUERIES)
def test_within_the_budget_it_is_the_full_ranking(collection: Collection, query: str) -> None:
    assert LexicalSearch(collection)(query, top_k=10) == full(collection, query, 10)


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("budget", [1, 40, 150])
def test_beyond_it_scores_are_those_of_all_terms(
    collection: Collection, query: str, budget: int
) -> None:
    everything = {hit.rowid: hit.score for hit in full(collection, query, 1000)}
    hits = LexicalSearch(collection, budget=budget)(query, top_k=10)
    assert len(hits) == min(10, len(everything))
    assert [hit.score for hit in hits] == pytest.approx([everything[hit.rowid] for hit in hits])
    assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.rowid))


def test_beyond_it_the_best_chunk_with_a_rare_term_is_still_the_best(
    collection: Collection,
) -> None:
    """The rare words of these queries choose the chunks, so the common ones only reorder them."""
    for query in ["a0 b7 f19", "a19 f18 b0 c1 d2", "绿茶 a2"]:
        pruned = LexicalSearch(collection, budget=150)(query, top_k=5)
        assert pruned[0].rowid == full(collection, query, 1)[0].rowid


def test_rare_words_choose_and_common_ones_fill_up(collection: Collection) -> None:
    counts = {term: collection.count_matches(f'"{term}"') for term in ("a0", "b7", "f19")}
    assert counts["a0"] > 300 > counts["b7"] + counts["f19"]
    rare = {hit.rowid for hit in full(collection, "b7 f19", 1000)}
    hits = LexicalSearch(collection, budget=300)("a0 b7 f19", top_k=len(rare))
    assert {hit.rowid for hit in hits} == rare
    hits = LexicalSearch(collection, budget=300)("a0 b7 f19", top_k=1000)
    assert {hit.rowid for hit in hits} == {hit.rowid for hit in full(collection, "a0 b7 f19", 1000)}


def test_a_common_word_alone_is_heeded(collection: Collection) -> None:
    assert LexicalSearch(collection, budget=1)("a0", top_k=10) == full(collection, "a0", 10)


def test_it_sees_what_was_added_since_it_counted(tmp_path: Path) -> None:
    with open_collection(tmp_path, "grows", HashingEncoder(), create=True) as opened:
        search = LexicalSearch(opened, budget=3)
        add_document(opened, ["tea cup"])
        assert len(search("tea cup", top_k=10)) == 1
        add_document(opened, ["tea", "tea pot", "tea leaf", "tea house", "pot"])
        for query in ("tea cup", "tea pot", "tea"):
            assert search(query, top_k=10) == full(opened, query, 10)


@pytest.mark.parametrize("query", ["", "？！", "   "])
def test_a_query_without_terms_finds_nothing(collection: Collection, query: str) -> None:
    assert LexicalSearch(collection)(query, top_k=10) == []


def test_top_k_of_zero_finds_nothing(collection: Collection) -> None:
    assert LexicalSearch(collection)("a0", top_k=0) == []
