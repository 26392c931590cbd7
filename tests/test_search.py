"""Keyword, dense and hybrid search through one signature."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ingest.documents import Chunk, Document, chunk_id, content_id
from retrieval.encoders import HashingEncoder, Vectors
from retrieval.lexical import Hit, LexicalSearch
from retrieval.passages import Passage
from retrieval.search import (
    CollectionSearcher,
    DenseSearch,
    Mode,
    RerankingSearcher,
    Searcher,
    SearchOptions,
    fuse,
    fuse_ranks,
    fuse_scores,
    given_passages,
)
from retrieval.store import Collection, open_collection

TEXTS = {
    "tea": "绿茶的冲泡温度是八十度，时间为两分钟。",
    "bridge": "武汉长江大桥于一九五七年建成通车。",
    "warranty": "The warranty of the pump lasts twenty-four months after delivery.",
    "library": "The library opens at nine in the morning and closes at eight.",
}


class CountingEncoder(HashingEncoder):
    """Counts how many queries were embedded."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = 0

    def encode_queries(self, texts: list[str]) -> Vectors:
        self.queries += len(texts)
        return super().encode_queries(texts)


def put(collection: Collection, uri: str, text: str, title: str = "") -> None:
    identity = content_id(text)
    chunk = Chunk(chunk_id(identity, 0, len(text)), identity, 0, len(text), text)
    made = Document(identity, uri, title, text, "und", "text/plain")
    collection.add(uri, identity, made, [chunk])


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with open_collection(tmp_path / "家", "文档", CountingEncoder(), create=True) as opened:
        for name, text in TEXTS.items():
            put(opened, f"file:{name}", text, name.upper())
        yield opened


@pytest.fixture(params=["lexical", "dense", "hybrid"])
def mode(request: pytest.FixtureRequest) -> Mode:
    chosen: Mode = request.param
    return chosen


@pytest.fixture
def searcher(collection: Collection, mode: Mode) -> CollectionSearcher:
    return CollectionSearcher(collection, SearchOptions(mode=mode))


def uris(passages: list[Passage]) -> list[str]:
    return [passage.uri for passage in passages]


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("绿茶冲泡的温度是多少？", "tea"),
        ("长江大桥是哪一年建成的？", "bridge"),
        ("How many months does the warranty last?", "warranty"),
        ("When does the library open in the morning?", "library"),
    ],
)
def test_the_right_passage_comes_first(
    searcher: CollectionSearcher, question: str, name: str
) -> None:
    passages = searcher.search(question, top_k=3)
    best = passages[0]
    assert best.chunk.text == TEXTS[name]
    assert (best.uri, best.title) == (f"file:{name}", name.upper())
    assert [passage.number for passage in passages] == list(range(1, len(passages) + 1))
    assert [p.score for p in passages] == sorted((p.score for p in passages), reverse=True)


def test_relevance_is_the_cosine_in_every_mode(
    collection: Collection, searcher: CollectionSearcher
) -> None:
    question = "warranty months"
    (vector,) = collection.encoder.encode_queries([question])
    for passage in searcher.search(question, top_k=4):
        embedded = collection.encoder.encode_passages([f"{passage.title}\n{passage.chunk.text}"])
        assert passage.relevance == pytest.approx(float(embedded[0] @ vector), abs=1e-6)


def test_found_by_names_the_searches(collection: Collection, mode: Mode) -> None:
    found = CollectionSearcher(collection, SearchOptions(mode=mode)).search("warranty", top_k=4)
    expected = {"lexical": ("lexical",), "dense": ("dense",), "hybrid": ("dense", "lexical")}
    assert found[0].found_by == expected[mode]
    others = {"lexical": [], "dense": [("dense",)] * 3, "hybrid": [("dense",)] * 3}
    assert [passage.found_by for passage in found[1:]] == others[mode]


def test_a_question_is_embedded_once(collection: Collection, searcher: CollectionSearcher) -> None:
    assert isinstance(collection.encoder, CountingEncoder)
    searcher.search("绿茶", top_k=2)
    assert collection.encoder.queries == 1


@pytest.mark.parametrize("question", ["", "  \n", '" OR NEAR( * ^', "？！", "\0"])
def test_odd_questions_are_safe(searcher: CollectionSearcher, question: str) -> None:
    assert len(searcher.search(question, top_k=2)) <= 2
    if not question.strip():
        assert searcher.search(question, top_k=2) == []


def test_top_k_bounds_the_result(collection: Collection, searcher: CollectionSearcher) -> None:
    assert searcher.search("the library", top_k=0) == []
    assert len(searcher.search("the library", top_k=1)) == 1
    few = SearchOptions(mode="dense", top_k=2, candidates=1)
    assert len(CollectionSearcher(collection, few).search("tea")) == 2


def test_an_empty_collection_has_no_passages(tmp_path: Path, mode: Mode) -> None:
    with open_collection(tmp_path, "empty", HashingEncoder(), create=True) as opened:
        searcher = CollectionSearcher(opened, SearchOptions(mode=mode))
        assert searcher.search("tea", top_k=5) == []


def test_a_changed_source_vanishes_from_every_search(
    collection: Collection, searcher: CollectionSearcher
) -> None:
    assert "file:tea" in uris(searcher.search("绿茶的冲泡温度", top_k=4))
    put(collection, "file:tea", "红茶要用沸水。")
    texts = [passage.chunk.text for passage in searcher.search("绿茶的冲泡温度", top_k=4)]
    assert TEXTS["tea"] not in texts
    found = searcher.search("红茶沸水", top_k=4)
    assert found[0].chunk.text == "红茶要用沸水。"


def test_equal_content_is_found_once(collection: Collection, searcher: CollectionSearcher) -> None:
    put(collection, "file:copy", TEXTS["tea"])
    found = searcher.search("绿茶的冲泡温度", top_k=10)
    assert uris(found).count("file:tea") == 1
    assert "file:copy" not in uris(found)


def test_threads_search_together_while_another_writes(
    collection: Collection, searcher: CollectionSearcher
) -> None:
    def write(number: int) -> None:
        put(collection, "file:tea", TEXTS["tea"] + "！" * number)

    def ask(_: int) -> str:
        return searcher.search("绿茶冲泡的温度", top_k=1)[0].uri

    with ThreadPoolExecutor(4) as threads:
        answers = threads.map(ask, range(20))
        writes = threads.map(write, range(20))
        assert set(answers) == {"file:tea"}
        assert len(list(writes)) == 20


def test_the_parts_share_one_signature(collection: Collection) -> None:
    for search in (LexicalSearch(collection), DenseSearch(collection)):
        hits = search("绿茶", top_k=2)
        assert hits[0].rowid == 1
        assert search("", top_k=2) == search("绿茶", top_k=0) == []
    assert isinstance(CollectionSearcher(collection), Searcher)


def test_fusion_of_ranks_by_hand() -> None:
    dense = [Hit(7, 0.9), Hit(3, 0.8), Hit(5, 0.7)]
    lexical = [Hit(3, 12.0), Hit(9, 4.0)]
    assert fuse_ranks([dense, lexical]) == [
        Hit(3, 1 / 62 + 1 / 61),  # second and first
        Hit(7, 1 / 61),
        Hit(9, 1 / 62),
        Hit(5, 1 / 63),
    ]
    assert [hit.rowid for hit in fuse_ranks([[Hit(8, 1)], [Hit(2, 1)]])] == [2, 8]  # a tie
    assert fuse_ranks([[Hit(1, 1.0)]], constant=1) == [Hit(1, 0.5)]
    assert fuse_ranks([]) == fuse_ranks([[], []]) == []


def test_fusion_of_scores_by_hand() -> None:
    dense = [Hit(7, 0.9), Hit(3, 0.8), Hit(5, 0.5)]
    lexical = [Hit(9, 12.0), Hit(3, 11.0), Hit(4, 4.0)]
    first, *others = fuse_scores([dense, lexical], [0.5, 0.5])
    assert first.rowid == 3
    assert first.score == pytest.approx(0.5 * 3 / 4 + 0.5 * 7 / 8)
    # The last hit of one search is no better than what that search did not find.
    assert others == [Hit(7, 0.5), Hit(9, 0.5), Hit(4, 0.0), Hit(5, 0.0)]
    assert fuse_scores([[Hit(8, 3.0), Hit(2, 3.0)]], [0.4]) == [Hit(2, 0.4), Hit(8, 0.4)]
    assert fuse_scores([], []) == fuse_scores([[], []], [0.5, 0.5]) == []


# Small whole numbers: scaling them by powers of two and shifting them is exact in floats.
RANKINGS = st.lists(
    st.dictionaries(st.integers(1, 12), st.integers(-20, 20), max_size=8).map(
        lambda scores: sorted(
            (Hit(rowid, float(score)) for rowid, score in scores.items()),
            key=lambda hit: (-hit.score, hit.rowid),
        )
    ),
    min_size=2,
    max_size=2,
)


@given(RANKINGS, st.sampled_from([0.0, 0.25, 0.6, 1.0]))
def test_fused_scores_hold_every_hit_once_in_order(
    rankings: list[list[Hit]], weight: float
) -> None:
    fused = fuse_scores(rankings, [weight, 1 - weight])
    assert sorted(hit.rowid for hit in fused) == sorted({h.rowid for r in rankings for h in r})
    assert fused == sorted(fused, key=lambda hit: (-hit.score, hit.rowid))
    assert all(0 <= hit.score <= 1 + 1e-9 for hit in fused)


@given(RANKINGS, st.integers(-8, 8), st.integers(-5, 5))
def test_fused_scores_do_not_depend_on_a_search_s_scale(
    rankings: list[list[Hit]], shift: int, power: int
) -> None:
    dense, lexical = rankings
    moved = [Hit(hit.rowid, (hit.score + shift) * 2.0**power) for hit in lexical]
    assert fuse_scores([dense, moved], [0.6, 0.4]) == fuse_scores(rankings, [0.6, 0.4])


@given(RANKINGS)
def test_what_both_searches_prefer_stays_ahead(rankings: list[list[Hit]]) -> None:
    fused = {hit.rowid: hit.score for hit in fuse_scores(rankings, [0.6, 0.4])}
    dense, lexical = ({hit.rowid: hit.score for hit in ranking} for ranking in rankings)
    shared = dense.keys() & lexical.keys()
    for better in shared:
        for worse in shared:
            if dense[better] >= dense[worse] and lexical[better] >= lexical[worse]:
                assert fused[better] >= fused[worse]


def test_options_choose_the_fusion() -> None:
    dense = [Hit(1, 0.9), Hit(2, 0.2), Hit(3, 0.1)]
    lexical = [Hit(2, 9.0), Hit(3, 3.0)]

    def order(options: SearchOptions) -> list[int]:
        return [hit.rowid for hit in fuse(dense, lexical, options)]

    assert order(SearchOptions()) == [1, 2, 3]  # the first is far ahead in one search
    assert order(SearchOptions(dense_weight=0.3)) == [2, 1, 3]
    assert order(SearchOptions(fusion="ranks")) == [2, 3, 1]  # two searches against one


def test_given_passages_keep_their_order() -> None:
    encoder = HashingEncoder()
    texts = ["The pump hums.", "绿茶要用八十度的水。", "绿茶要用八十度的水。"]
    passages = given_passages(texts, "绿茶用几度的水？", encoder)
    assert [passage.chunk.text for passage in passages] == texts
    assert [passage.number for passage in passages] == [1, 2, 3]
    first, second, _ = passages
    assert first.relevance is not None
    assert second.relevance is not None
    assert second.relevance > first.relevance
    assert second.score == second.relevance
    assert second.found_by == ("given",)
    assert second.chunk.document_id == content_id(texts[1])
    assert texts[1][second.chunk.start : second.chunk.end] == second.chunk.text
    assert given_passages([], "绿茶", encoder) == []


class Longest:
    """A reranker for which the longest passage is the best."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        self.asked += pairs
        return np.array([len(text) for _, text in pairs], np.float32)


def test_a_reranker_orders_what_was_found_anew(collection: Collection) -> None:
    options = SearchOptions(mode="dense", rerank_from=3)
    plain, reranker = CollectionSearcher(collection, options), Longest()
    found = plain.search("tea", top_k=3)
    again = RerankingSearcher(plain, reranker, options).search("tea", top_k=2)
    longest = sorted((passage.chunk.text for passage in found), key=len, reverse=True)
    assert [passage.chunk.text for passage in again] == longest[:2]
    assert [passage.number for passage in again] == [1, 2]
    assert [passage.score for passage in again] == [float(len(text)) for text in longest[:2]]
    assert reranker.asked == [("tea", passage.chunk.text) for passage in found]


def test_a_reranker_looks_at_as_many_as_are_wanted(collection: Collection) -> None:
    options = SearchOptions(mode="dense", top_k=2, rerank_from=1)
    searcher = RerankingSearcher(CollectionSearcher(collection, options), Longest(), options)
    assert len(searcher.search("tea")) == 2
    assert searcher.search("tea", top_k=0) == []
    assert searcher.search("  ", top_k=3) == []
