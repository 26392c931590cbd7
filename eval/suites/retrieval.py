"""The suite `retrieval`: which passages are found for public questions, and how far up.

    with open_suite(laboratory, Request(Path("data"), sets=("drcd", "cranfield"))) as suite:
        run_suite(suite, folder, limit=100)

Every text of a set is one document, cut and embedded once; all ways of searching get the same
chunks and vectors, so that only the ranking differs. A random order is the degenerate baseline.
`benchmarks/retrieval.py` sets its peers on the same `RankingBench`. Knows nothing of answers.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from eval import rankings
from eval.datasets import find_data, require_licences
from eval.rankings import RANKING_SETS, Query, RankingSet, load_ranking_sets
from eval.records import digest
from eval.suites.pages import SECONDS, Layout, mean_of
from eval.suites.suite import Laboratory, Measured, Request, Suite, Trial, Variant, hash_code
from ingest.chunking import ChunkingOptions, split
from ingest.documents import Document, content_id
from ingest.languages import detect_language, question_language
from ingest.pipeline import Item
from retrieval.encoders import Encoder, Vectors
from retrieval.lexical import Hit, LexicalSearch
from retrieval.search import DenseSearch, SearchOptions, fuse
from retrieval.store import Collection, StoredChunk, open_collection

NAME = "retrieval"
PROTOCOL = 1  # raise it when equal options come to mean another measurement
KEPT = 10  # passages of a sample, best first
_BATCH = 64  # documents embedded at once

METRICS: Mapping[str, Callable[[Sequence[str], frozenset[str]], float]] = {
    "recall@1": partial(rankings.recall, k=1),
    "recall@5": partial(rankings.recall, k=5),
    "recall@10": partial(rankings.recall, k=10),
    "all@5": partial(rankings.complete, k=5),
    "mrr@10": rankings.first_reciprocal_rank,
    "ndcg@10": rankings.ndcg,
}

Ranking = Callable[[Query], list[Hit]]  # chunks, best first


# --- A set in a collection ------------------------------------------------------------------------


class Embedded(dict[str, Vectors]):
    """Vectors of queries, each embedded when it is first asked for."""

    def __init__(self, encoder: Encoder) -> None:
        """Embed nothing yet."""
        super().__init__()
        self._encoder = encoder

    def __missing__(self, text: str) -> Vectors:
        """Embed a query and remember its vector, (dimension,)."""
        vector: Vectors = self._encoder.encode_queries([text])[0]
        self[text] = vector
        return vector

    def fill(self, texts: Sequence[str]) -> None:
        """Embed many queries at once, so that none waits for it later."""
        new = [text for text in dict.fromkeys(texts) if text not in self]
        self.update(zip(new, self._encoder.encode_queries(new), strict=True))


@dataclass(frozen=True, slots=True)
class RankingBench:
    """One set in a collection, its chunks at hand."""

    set: RankingSet
    collection: Collection
    chunks: Mapping[int, StoredChunk]
    holders: Mapping[str, tuple[str, ...]]  # document id to the text ids it stands for
    embedded: Embedded  # query text to its vector
    options: SearchOptions

    def texts_of(self, numbers: Sequence[int]) -> list[str]:
        """Return the text ids behind ranked chunks, each once; duplicates stand together."""
        found: dict[str, None] = {}
        for number in numbers:
            found.update(dict.fromkeys(self.holders[self.chunks[number].chunk.document_id]))
        return list(found)

    def halves(self) -> tuple[Ranking, Ranking]:
        """Return the lexical and the dense search."""
        lexical = LexicalSearch(self.collection)
        dense = DenseSearch(self.collection, self.embedded.__getitem__)
        most = self.options.candidates
        return (
            lambda query: lexical(query.text, top_k=most),
            lambda query: dense(query.text, top_k=most),
        )

    def hybrid(self) -> Ranking:
        """Return the hybrid search: both halves, fused as the options say."""
        lexical, dense = self.halves()
        return lambda query: fuse(dense(query), lexical(query), self.options)

    def at_random(self, seed: int) -> Ranking:
        """Return a search that draws chunks, the same ones for a query and seed."""
        numbers = list(self.chunks)
        most = min(self.options.candidates, len(numbers))

        def rank(query: Query) -> list[Hit]:
            drawn = random.Random(f"{seed} {query.id}").sample(numbers, most)
            return [Hit(number, 0.0) for number in drawn]

        return rank

    def scores(self, query: Query, numbers: Sequence[int]) -> dict[str, float]:
        """Return all `METRICS` of ranked chunks."""
        texts = self.texts_of(numbers)
        return {name: score(texts, query.relevant) for name, score in METRICS.items()}


@contextmanager
def open_ranking_bench(
    work: Path,
    given: RankingSet,
    encoder: Encoder,
    chunking: ChunkingOptions,
    options: SearchOptions,
) -> Iterator[RankingBench]:
    """Open the collection of a set, embedding its texts on the first run only.

    Args:
        work: Keeps the collections.
        given: The set.
        encoder: Embeds texts and queries.
        chunking: How texts are cut; another size is another collection.
        options: How the collection is searched.
    """
    size = chunking.max_tokens
    shape = digest([list(given.texts), chunking.overlap_tokens])[:8]
    name = f"{given.name} {size} {shape}".replace("_", "-")
    with open_collection(work, name, encoder, create=True) as collection:
        known = set(collection.uris())
        waiting = [(key, text) for key, text in given.texts.items() if key not in known]
        for start in range(0, len(waiting), _BATCH):
            batch = waiting[start : start + _BATCH]
            collection.add_all([_item(collection, chunking, *one) for one in batch])
        chunks = collection.chunks_by_rowid(collection.rowids())
        holders = {info.id: info.uris for info in collection.documents()}
        yield RankingBench(given, collection, chunks, holders, Embedded(encoder), options)


def _item(collection: Collection, chunking: ChunkingOptions, key: str, text: str) -> Item:
    document = Document(content_id(text), key, "", text, detect_language(text), "text/plain")
    chunks = split(document, collection.count_tokens, chunking)
    return Item(key, key, document, chunks)


# --- The suite ------------------------------------------------------------------------------------


@contextmanager
def open_suite(laboratory: Laboratory, request: Request) -> Iterator[Suite[Query]]:
    """Yield the suite over the sets that are asked for.

    Raises:
        UsageError: A set is unknown or missing, or its licence is not accepted.
    """
    names = request.sets or tuple(RANKING_SETS)
    require_licences(names, accepted=request.accepts_licences)
    sets = {one.name: one for one in load_ranking_sets(names, find_data(request.data))}
    with ExitStack() as stack:
        ranking = _Ranking(laboratory, sets, stack, request.seed)
        yield Suite(
            NAME,
            laboratory.identity(generates=False)
            | {
                "cases": digest([_told(one) for one in sets.values()]),
                "protocol": str(PROTOCOL),
                "code": hash_code("suites.retrieval", "rankings"),
            },
            tuple(trial for one in sets.values() for trial in _trials(one)),
            tuple(Variant(way, partial(ranking.measure, way)) for way in ranking.ways),
        )


def _told(given: RankingSet) -> object:
    """Return what decides the figures of a set; its texts are named by their hashes."""
    queries = [[query.id, query.text, sorted(query.relevant)] for query in given.queries]
    return [given.name, list(given.texts), queries]


def _trials(given: RankingSet) -> Iterator[Trial[Query]]:
    """Yield a set's queries; the name of a set says its language where it has several."""
    base, _, last = given.name.rpartition(" ")
    kind, language = (base, last) if last in ("zh", "en") else (given.name, "")
    language = language or question_language(given.queries[0].text if given.queries else "")
    for query in given.queries:
        yield Trial(f"{given.name}/{query.id}", query, query.text, language, query.cluster, kind)


class _Ranking:
    """Ranks the texts of the set that a trial belongs to; one set is open at a time."""

    def __init__(
        self, laboratory: Laboratory, sets: Mapping[str, RankingSet], stack: ExitStack, seed: int
    ) -> None:
        self._laboratory, self._sets, self._seed = laboratory, sets, seed
        self._stack = stack.enter_context(ExitStack())  # of the set that is open
        self._at = ""
        self._bench: RankingBench
        self._rankings: Mapping[str, Ranking] = {}

    @property
    def ways(self) -> list[str]:
        """The names of what is compared."""
        reranks = self._laboratory.search.reranker != "none"
        return ["lexical", "dense", "hybrid", *(["reranked"] if reranks else [])]

    def measure(self, way: str, trials: Sequence[Trial[Query]]) -> list[Measured]:
        """Return the scores of one way of searching."""
        return [self._measure(way, trial) for trial in trials]

    def _measure(self, way: str, trial: Trial[Query]) -> Measured:
        self._turn_to(trial.id.partition("/")[0])
        query = trial.subject
        _ = self._bench.embedded[query.text]  # all ways share it, so none waits for it
        started = time.perf_counter()
        hits = self._rankings[way](query)
        seconds = time.perf_counter() - started
        drawn = self._rankings["random"](query)
        return Measured(
            "",
            self._scores(query, hits),
            seconds=seconds,
            passages=tuple(
                (self._bench.chunks[hit.rowid].chunk.id, float(hit.score)) for hit in hits[:KEPT]
            ),
            baselines={"random order": Measured("", self._scores(query, drawn))},
        )

    def _scores(self, query: Query, hits: Sequence[Hit]) -> dict[str, float]:
        return self._bench.scores(query, [hit.rowid for hit in hits])

    def _turn_to(self, name: str) -> None:
        if self._at == name:
            return
        self._at = ""
        self._stack.close()
        lab = self._laboratory
        self._bench = self._stack.enter_context(
            open_ranking_bench(
                lab.home / "benchmarks", self._sets[name], lab.encoder(), lab.chunking, lab.search
            )
        )
        lexical, dense = self._bench.halves()
        self._rankings = {
            "lexical": lexical,
            "dense": dense,
            "hybrid": self._bench.hybrid(),
            "random": self._bench.at_random(self._seed),
        }
        if "reranked" in self.ways:
            self._rankings["reranked"] = self._reranked()
        self._at = name

    def _reranked(self) -> Ranking:
        """Return the search in force, whose reranker orders the passages anew."""
        searcher = self._laboratory.searcher(self._bench.collection)
        rows = {stored.chunk.id: row for row, stored in self._bench.chunks.items()}
        most = self._laboratory.search.rerank_from
        return lambda query: [
            Hit(rows[passage.chunk.id], passage.score)
            for passage in searcher.search(query.text, top_k=most)
        ]


LAYOUT = Layout(
    "Retrieval",
    "Public questions with the texts that answer them: which of a set's texts a search finds, and"
    " how far up. All ways of searching have the same passages and vectors.",
    (*(mean_of(name) for name in METRICS), SECONDS),
    legend="recall@k: the share of the texts that answer which are among the first k; all@5: all"
    " of them are. mrr@10: one divided by the rank of the first. ndcg@10: the discounted gain of"
    " the first ten, normalised. In nomiracl all ten supplied passages count as answering, in"
    " dureader_rank and hotpotqa none of other questions does.",
    headline="ndcg@10",
)
