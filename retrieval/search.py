"""Searches: a question becomes ranked `Passage`s.

Every search has one signature, `(query, *, top_k) -> list[Hit]`, so hybrid search is two calls and
one pure function. Knows nothing of prompts, generation or how the store keeps things.

    searcher = CollectionSearcher(collection, SearchOptions(mode="hybrid"))
    passages = searcher.search("长江大桥在哪里？", top_k=5)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ingest.documents import Chunk, chunk_id, content_id
from retrieval.encoders import Encoder, Vectors
from retrieval.lexical import Hit, LexicalSearch
from retrieval.passages import Passage
from retrieval.store import Collection

Mode = Literal["hybrid", "dense", "lexical"]
Fusion = Literal["scores", "ranks"]


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a collection is searched."""

    mode: Mode = "hybrid"  # hybrid fuses what the other two find
    top_k: int = 5  # passages
    candidates: int = 50  # hits of each search that enter the fusion
    fusion: Fusion = "scores"  # hybrid: by scores scaled to 0..1, or by reciprocal ranks
    dense_weight: float = 0.6  # fusion by scores: share of the dense score, the rest is lexical
    reranker: str = "none"  # trained head that ranks anew: "none", a name, or a folder
    rerank_from: int = 20  # passages that a reranker chooses from


class Search(Protocol):
    """The one signature of every search."""

    def __call__(self, query: str, *, top_k: int) -> list[Hit]:
        """Return at most `top_k` hits, best first, ties by row number."""
        ...


@runtime_checkable
class Searcher(Protocol):
    """Finds passages for a question."""

    def search(self, query: str, *, top_k: int) -> list[Passage]:
        """Return at most `top_k` passages, best first."""
        ...


class Reranker(Protocol):
    """Scores how well passages answer questions: a cross-encoder."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Return one score for each (question, passage), (len(pairs),), the greater the better."""
        ...


class DenseSearch:
    """Cosine between the query and every chunk of a collection."""

    def __init__(
        self, collection: Collection, embed: Callable[[str], Vectors] | None = None
    ) -> None:
        """Search this collection; `embed` (query -> vector) may share a cache."""
        from retrieval.index import DenseIndex  # FAISS: half a second

        self._index = DenseIndex(collection)
        self._embed = embed or _cached_embedding(collection.encoder)

    def __call__(self, query: str, *, top_k: int) -> list[Hit]:
        """Return at most `top_k` hits by cosine, best first, ties by row number."""
        if not query.strip() or top_k <= 0:
            return []
        return [Hit(*found) for found in self._index.search(self._embed(query), top_k=top_k)]


def fuse_scores(rankings: Sequence[Sequence[Hit]], weights: Sequence[float]) -> list[Hit]:
    """Merge rankings by a weighted sum of their scaled scores, ties by row number.

    A chunk scores the sum of weight * (score - lowest) / (highest - lowest) over the rankings that
    hold it; in a ranking whose scores are all equal, each counts as highest. A ranking that does
    not hold the chunk adds nothing, as if the chunk stood level with its last hit: found by one
    search only, a chunk can score that search's weight at most (Bruch, Gai and Ingber, "An Analysis
    of Fusion Functions for Hybrid Retrieval", ACM TOIS 2023: convex combination, min-max scaling).

    Args:
        rankings: Scores are compared within one ranking only, so the lowest depends on its length.
        weights: One for each ranking; if they sum to 1, scores lie in 0..1.
    """
    shares: dict[int, list[float]] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for hit, scaled in zip(ranking, _scaled(ranking), strict=True):
            shares.setdefault(hit.rowid, []).append(weight * scaled)
    return _summed(shares)


def fuse_ranks(rankings: Sequence[Sequence[Hit]], *, constant: int = 60) -> list[Hit]:
    """Merge rankings by reciprocal rank fusion, ties by row number.

    A chunk scores the sum of 1 / (constant + rank) over the rankings that hold it, ranks from 1
    (Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual
    Rank Learning Methods", SIGIR 2009).

    Args:
        rankings: Each best first; their scores are not looked at.
        constant: In ranks: the larger, the less the first ranks stand out.
    """
    shares: dict[int, list[float]] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            shares.setdefault(hit.rowid, []).append(1 / (constant + rank))
    return _summed(shares)


def fuse(dense: Sequence[Hit], lexical: Sequence[Hit], options: SearchOptions) -> list[Hit]:
    """Merge the rankings of a hybrid search as the options say."""
    if options.fusion == "ranks":
        return fuse_ranks([dense, lexical])
    return fuse_scores([dense, lexical], [options.dense_weight, 1 - options.dense_weight])


def _scaled(ranking: Sequence[Hit]) -> list[float]:
    scores = [hit.score for hit in ranking]
    lowest, highest = min(scores, default=0.0), max(scores, default=0.0)
    if lowest == highest:
        return [1.0] * len(scores)
    return [(score - lowest) / (highest - lowest) for score in scores]


def _summed(shares: Mapping[int, Sequence[float]]) -> list[Hit]:
    hits = [Hit(rowid, math.fsum(parts)) for rowid, parts in shares.items()]
    return sorted(hits, key=lambda hit: (-hit.score, hit.rowid))


class CollectionSearcher:
    """The `Searcher` over one collection."""

    def __init__(self, collection: Collection, options: SearchOptions | None = None) -> None:
        """Search this collection; loads its index unless the mode is lexical."""
        self._collection = collection
        self._options = options or SearchOptions()
        self._embed = _cached_embedding(collection.encoder)
        self._searches: dict[str, Search] = {}
        if self._options.mode != "lexical":
            self._searches["dense"] = DenseSearch(collection, self._embed)
        if self._options.mode != "dense":
            self._searches["lexical"] = LexicalSearch(collection)

    def search(self, query: str, *, top_k: int | None = None) -> list[Passage]:
        """Return at most `top_k` passages, best first (None: as the options say).

        `score` is that of the mode: of the fusion, cosine or BM25. `relevance` is the cosine in
        every mode.
        """
        top_k = self._options.top_k if top_k is None else top_k
        if not query.strip() or top_k <= 0:
            return []
        vector = self._embed(query)  # a model runs here, so before others have to wait for us
        candidates = max(self._options.candidates, top_k)
        with self._collection.reading():
            rankings = {
                name: search(query, top_k=candidates) for name, search in self._searches.items()
            }
            hits = self._merged(rankings)[:top_k]
            return self._passages(hits, rankings, vector)

    def _merged(self, rankings: Mapping[str, list[Hit]]) -> list[Hit]:
        if len(rankings) == 1:
            return next(iter(rankings.values()))
        return fuse(rankings["dense"], rankings["lexical"], self._options)

    def _passages(
        self, hits: Sequence[Hit], rankings: dict[str, list[Hit]], vector: Vectors
    ) -> list[Passage]:
        rowids = [hit.rowid for hit in hits]
        chunks = self._collection.chunks_by_rowid(rowids)
        cosines = self._collection.vectors(rowids) @ vector  # (hits,)
        members = {name: {hit.rowid for hit in ranking} for name, ranking in rankings.items()}
        return [
            Passage(
                number=number,
                chunk=chunks[hit.rowid].chunk,
                title=chunks[hit.rowid].title,
                uri=chunks[hit.rowid].uri,
                score=hit.score,
                found_by=tuple(name for name in members if hit.rowid in members[name]),
                relevance=float(cosine),
            )
            for number, (hit, cosine) in enumerate(zip(hits, cosines, strict=True), start=1)
        ]


class RerankingSearcher:
    """A `Searcher` that orders what another one finds anew, by a reranker."""

    def __init__(self, searcher: Searcher, reranker: Reranker, options: SearchOptions) -> None:
        """Rerank the first `options.rerank_from` passages that the searcher finds."""
        self._searcher = searcher
        self._reranker = reranker
        self._options = options

    def search(self, query: str, *, top_k: int | None = None) -> list[Passage]:
        """Return at most `top_k` passages, best first (None: as the options say).

        `score` is the reranker's; of equal ones the searcher's order stays.
        """
        top_k = self._options.top_k if top_k is None else top_k
        if top_k <= 0:
            return []
        found = self._searcher.search(query, top_k=max(self._options.rerank_from, top_k))
        scores = self._reranker.score([(query, passage.chunk.text) for passage in found])
        order = sorted(range(len(found)), key=lambda i: -float(scores[i]))[:top_k]
        return [
            replace(found[i], number=number, score=float(scores[i]))
            for number, i in enumerate(order, start=1)
        ]


def given_passages(texts: Sequence[str], question: str, encoder: Encoder) -> list[Passage]:
    """Return supplied texts as passages, numbered from 1 in the given order.

    Each is a document of its own, covered by one chunk; `score` is `relevance`, its cosine with
    the question.
    """
    if not texts:
        return []
    cosines = encoder.encode_passages(list(texts)) @ encoder.encode_queries([question])[0]
    return [
        Passage(number, _whole(text), "", "", float(cosine), ("given",), float(cosine))
        for number, (text, cosine) in enumerate(zip(texts, cosines, strict=True), start=1)
    ]


def _cached_embedding(encoder: Encoder) -> Callable[[str], Vectors]:
    """Return query -> vector, so that one search, or one asked again, embeds its query once."""

    @lru_cache(maxsize=32)
    def embed(query: str) -> Vectors:
        vector: Vectors = encoder.encode_queries([query])[0]  # (dimension,)
        return vector

    return embed


def _whole(text: str) -> Chunk:
    document_id = content_id(text)
    return Chunk(chunk_id(document_id, 0, len(text)), document_id, 0, len(text), text)
