"""Retrieval quality on public sets: lexical, dense and hybrid search beside two peers.

    python -m benchmarks.retrieval --data ../shared/data --work build/retrieval --out FILE
    python -m benchmarks.retrieval ... --sets drcd,cranfield --ablate fusion,chunks
    python -m benchmarks.retrieval ... --ablate reader --limit 100

Every text of a set is one document, cut and embedded once; all systems get the same chunks and the
same vectors, so that only the ranking differs (the peers' own way of cutting is not measured here,
and their dense half is as good as ours). Peers: LangChain's EnsembleRetriever (BM25Retriever and
FAISS, equal weights, reciprocal rank fusion) and Haystack's InMemory BM25 and embedding retrievers
joined by reciprocal rank fusion, both with 50 candidates from each half as ours. A random order is
the degenerate baseline.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.train_heads import open_head
from eval import rankings
from eval.datasets import find_data
from eval.rankings import Query, RankingSet
from eval.statistics import mean, paired
from eval.suites.retrieval import METRICS, Ranking, RankingBench, open_ranking_bench
from ingest.chunking import ChunkingOptions
from ingest.errors import UsageError
from ingest.languages import split_sentences
from model.adapters import shipped_adapter
from model.cross_encoder import CrossEncoder
from retrieval.encoders import DEFAULT_ENCODER, Encoder, load_encoder
from retrieval.lexical import Hit
from retrieval.search import SearchOptions, fuse, fuse_ranks, fuse_scores

OPTIONS = SearchOptions()  # ours are measured as they come
CANDIDATES = OPTIONS.candidates  # chunks of each half that enter a fusion
RERANKED = 10  # of a hybrid search, how many are ordered anew
PACKING = "answer in prompt"
CHARACTERS = 1_200  # of passages that a prompt may hold, for the ablation of chunk sizes

Rank = Callable[[Query], list[int]]  # chunk numbers, best first
Floats = NDArray[np.float32]


@contextmanager
def open_bench(
    work: Path, given: RankingSet, encoder: Encoder, size: int
) -> Iterator[RankingBench]:
    """Open the collection of a set with its queries embedded, so that no system waits for that."""
    options = ChunkingOptions(max_tokens=size)
    with open_ranking_bench(work, given, encoder, options, OPTIONS) as bench:
        bench.embedded.fill([query.text for query in given.queries])
        yield bench


# --- Systems -------------------------------------------------------------------------------------


def systems(bench: RankingBench, seed: int) -> dict[str, Rank]:
    """Return every system that is compared, by name."""
    lexical, dense = bench.halves()
    return {
        "random": _numbered(bench.at_random(seed)),
        "lexical": _numbered(lexical),
        "dense": _numbered(dense),
        "hybrid": _numbered(bench.hybrid()),
        "langchain ensemble": langchain_ensemble(bench),
        "haystack hybrid": haystack_hybrid(bench),
    }


def hybrid_only(name: str, bench: RankingBench) -> dict[str, Rank]:
    """Return our hybrid search alone, under a name."""
    return {name: _numbered(bench.hybrid())}


def _numbered(rank: Ranking) -> Rank:
    return lambda query: _numbers(rank(query))


def _numbers(hits: Sequence[Hit]) -> list[int]:
    return [hit.rowid for hit in hits]


def langchain_ensemble(bench: RankingBench) -> Rank:
    """Return LangChain's usual hybrid retriever over the same chunks and vectors."""
    from langchain_classic.retrievers import EnsembleRetriever
    from langchain_community.retrievers import BM25Retriever
    from langchain_community.vectorstores import FAISS
    from langchain_core.embeddings import Embeddings

    class Known(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            raise NotImplementedError

        def embed_query(self, text: str) -> list[float]:
            return [float(value) for value in bench.embedded[text]]

    numbers = list(bench.chunks)
    texts = [bench.chunks[number].chunk.text for number in numbers]
    labels = [{"number": number} for number in numbers]
    vectors = bench.collection.vectors(numbers).tolist()
    pairs = list(zip(texts, vectors, strict=True))
    dense = FAISS.from_embeddings(pairs, Known(), labels).as_retriever(
        search_kwargs={"k": CANDIDATES}
    )
    lexical = BM25Retriever.from_texts(texts, labels, k=CANDIDATES)
    # Its own way to tell documents apart is their text; by number it does not lose equal chunks.
    both = EnsembleRetriever(retrievers=[lexical, dense], weights=[0.5, 0.5], id_key="number")
    return lambda query: [found.metadata["number"] for found in both.invoke(query.text)]


def haystack_hybrid(bench: RankingBench) -> Rank:
    """Return Haystack's in-memory BM25 and embedding retrievers, their ranks fused."""
    from haystack import Document as HaystackDocument
    from haystack.components.joiners import DocumentJoiner
    from haystack.components.retrievers.in_memory import (
        InMemoryBM25Retriever,
        InMemoryEmbeddingRetriever,
    )
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    numbers = list(bench.chunks)
    vectors = bench.collection.vectors(numbers).tolist()
    store.write_documents(
        [
            HaystackDocument(
                id=str(number), content=bench.chunks[number].chunk.text, embedding=vector
            )
            for number, vector in zip(numbers, vectors, strict=True)
        ]
    )
    lexical = InMemoryBM25Retriever(store, top_k=CANDIDATES)
    dense = InMemoryEmbeddingRetriever(store, top_k=CANDIDATES)
    joiner = DocumentJoiner(join_mode="reciprocal_rank_fusion")

    def rank(query: Query) -> list[int]:
        vector = bench.embedded[query.text].tolist()
        found = [
            lexical.run(query=query.text)["documents"],
            dense.run(query_embedding=vector)["documents"],
        ]
        return [int(document.id) for document in joiner.run(documents=found)["documents"]]

    return rank


# --- Ablations -----------------------------------------------------------------------------------


def fusions(bench: RankingBench) -> dict[str, Rank]:
    """Return ways of fusing the two halves: other constants, weights, and score fusion."""
    lexical, dense = bench.halves()
    known: dict[str, tuple[list[Hit], list[Hit]]] = {}

    def both(query: Query) -> tuple[list[Hit], list[Hit]]:
        if query.id not in known:
            known[query.id] = (dense(query), lexical(query))
        return known[query.id]

    def by_rank(query: Query, constant: int) -> list[int]:
        return _numbers(fuse_ranks(both(query), constant=constant))

    def by_score(query: Query, weight: float) -> list[int]:
        return _numbers(fuse_scores(both(query), (weight, 1 - weight)))

    ways: dict[str, Rank] = {}
    for constant in (5, 10, 20, 60, 100):
        ways[f"ranks, constant {constant}"] = partial(by_rank, constant=constant)
    for weight in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        ways[f"scores, dense weight {weight}"] = partial(by_score, weight=weight)
    return ways


def reranked(bench: RankingBench, reader: CrossEncoder) -> dict[str, Rank]:
    """Return hybrid search, and its first ten ordered anew by whether the reader finds an answer.

    Alone, by the span's margin over "there is none"; and with the scores of the search, both
    scaled to 0..1 among the ten.
    """
    hybrid = bench.hybrid()
    known: dict[str, tuple[list[Hit], Floats, Floats]] = {}

    def first(query: Query) -> tuple[list[Hit], Floats, Floats]:
        if query.id not in known:
            hits = hybrid(query)[:RERANKED]
            texts = [bench.chunks[hit.rowid].chunk.text for hit in hits]
            found = reader.read_pairs([(query.text, text) for text in texts])
            margins = np.array([one.margin if one else -np.inf for one in found], np.float32)
            scores = np.array([hit.score for hit in hits], np.float32)
            known[query.id] = (hits, _scaled(scores), _scaled(np.clip(margins, -50, 50)))
        return known[query.id]

    def by(query: Query, weight: float) -> list[int]:
        hits, scores, margins = first(query)
        order = np.argsort(-((1 - weight) * scores + weight * margins), kind="stable")
        return [hits[place].rowid for place in order]

    ways: dict[str, Rank] = {"hybrid": lambda query: _numbers(hybrid(query)[:RERANKED])}
    for weight in (0.1, 0.2, 0.3, 0.5, 1.0):
        ways[f"reader, weight {weight}"] = partial(by, weight=weight)
    return ways


def _scaled(values: Floats) -> Floats:
    """Return values scaled to 0..1; equal ones are all 0."""
    if not len(values):
        return values
    spread = float(values.max() - values.min())
    return np.zeros_like(values) if spread == 0 else (values - values.min()) / spread


def measure_packing(bench: RankingBench, size: int) -> Iterator[dict[str, Any]]:
    """Yield whether an answer stands in the best passages that fit a prompt.

    With and without a sentence window (the sentence before and after each passage), and with near
    duplicates (cosine of 0.97 or more with a better passage) left out.
    """
    lexical, dense = bench.halves()
    for query in bench.set.queries:
        if not query.answers:
            return
        numbers = _numbers(fuse(dense(query), lexical(query), OPTIONS))
        for way, chosen in (
            ("plain", numbers),
            ("window", numbers),
            ("no near duplicates", _distinct(bench, numbers)),
        ):
            text = _packed(bench, chosen, window=way == "window")
            yield {
                "set": bench.set.name,
                "system": f"{size} tokens, {way}",
                "query": query.id,
                "cluster": query.cluster,
                PACKING: float(any(answer in text for answer in query.answers)),
            }


def _distinct(bench: RankingBench, numbers: Sequence[int]) -> list[int]:
    vectors = bench.collection.vectors(numbers)  # (hits, dimension)
    kept: list[int] = []
    for place in range(len(numbers)):
        if not kept or float((vectors[kept] @ vectors[place]).max()) < 0.97:
            kept.append(place)
    return [numbers[place] for place in kept]


def _packed(bench: RankingBench, numbers: Sequence[int], *, window: bool) -> str:
    parts: list[str] = []
    for number in numbers:
        chunk = bench.chunks[number].chunk
        text = chunk.text
        if window:
            whole = bench.set.texts[chunk.document_id]
            spans = split_sentences(whole)
            before = [start for start, end in spans if end <= chunk.start]
            after = [end for start, end in spans if start >= chunk.end]
            start = before[-1] if before else chunk.start
            text = whole[start : after[0] if after else chunk.end]
        parts.append(text)
        if sum(map(len, parts)) >= CHARACTERS:
            break
    return "\n".join(parts)[:CHARACTERS]


# --- Measuring and reporting ---------------------------------------------------------------------


def measure(bench: RankingBench, ranked_by: Mapping[str, Rank]) -> Iterator[dict[str, Any]]:
    """Yield one row a query and system: its metrics and its seconds."""
    for name, rank in ranked_by.items():
        for query in tqdm(bench.set.queries, desc=f"{bench.set.name}: {name}", mininterval=5):
            begin = time.perf_counter()
            numbers = rank(query)
            seconds = time.perf_counter() - begin
            row = {"set": bench.set.name, "system": name, "query": query.id}
            row["cluster"] = query.cluster
            yield row | bench.scores(query, numbers) | {"seconds": seconds}


def report(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield Markdown: a table a set, every figure with its interval, and paired differences."""
    for name, packing in dict.fromkeys((row["set"], PACKING in row) for row in rows):
        own = [row for row in rows if row["set"] == name and (PACKING in row) == packing]
        metrics = [PACKING] if packing else list(METRICS)
        yield f"\n| {name} | " + " | ".join(metrics) + " |"
        yield "|---" * (len(metrics) + 1) + "|"
        for system in dict.fromkeys(row["system"] for row in own):
            chosen = [row for row in own if row["system"] == system]
            clusters = [row["cluster"] for row in chosen]
            cells = [str(mean([row[m] for row in chosen], clusters)) for m in metrics]
            yield f"| {system} | " + " | ".join(cells) + " |"
        yield from _differences(own)


def _differences(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what hybrid search gains over every other system, query by query."""
    by_system: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_system.setdefault(row["system"], {})[row["query"]] = row
    ours = by_system.pop("hybrid", None)
    if ours is None:
        return
    for system, others in by_system.items():
        before, after = ([own[key]["ndcg@10"] for key in ours] for own in (others, ours))
        found = paired(before, after, [row["cluster"] for row in ours.values()])
        yield f"\nhybrid - {system}, ndcg@10: {found.difference}"


def main() -> None:
    """Measure, append the rows to a file, print the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the question sets")
    parser.add_argument("--work", type=Path, required=True, help="keeps the collections")
    parser.add_argument("--home", type=Path, help="data root with the weights (default: --work)")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one a query")
    parser.add_argument("--sets", default=",".join(rankings.RANKING_SETS))
    parser.add_argument("--ablate", default="", help="fusion, chunks, reader")
    parser.add_argument("--size", type=int, default=ChunkingOptions().max_tokens)
    parser.add_argument("--sizes", default="100,200,300", help="for --ablate chunks")
    parser.add_argument("--limit", type=int, help="queries of each set, drawn with the seed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    encoder = load_encoder(DEFAULT_ENCODER, options.home or options.work, "auto")
    ablations = set(filter(None, options.ablate.split(",")))
    sizes = [int(size) for size in options.sizes.split(",")]
    rows: list[dict[str, Any]] = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a", encoding="utf-8") as out:
        for given in rankings.load_ranking_sets(options.sets.split(","), find_data(options.data)):
            for row in _run(_some(given, options), encoder, ablations, sizes, options):
                rows.append(row)
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
    sys.stdout.write("\n".join(report(rows)) + "\n")


def _some(given: RankingSet, options: argparse.Namespace) -> RankingSet:
    """Return a set with as many queries as were asked for."""
    if options.limit is None or options.limit >= len(given.queries):
        return given
    drawn = random.Random(f"{options.seed} {given.name}").sample(given.queries, options.limit)
    return replace(given, queries=tuple(drawn))


def _run(
    given: RankingSet,
    encoder: Encoder,
    ablations: set[str],
    sizes: Sequence[int],
    options: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    if not ablations:
        with open_bench(options.work, given, encoder, options.size) as bench:
            yield from measure(bench, systems(bench, options.seed))
    if "fusion" in ablations:
        with open_bench(options.work, given, encoder, options.size) as bench:
            yield from measure(bench, fusions(bench))
    if "reader" in ablations:
        reader = shipped_adapter("read")
        if reader is None:
            raise UsageError("No reader is shipped: train one with benchmarks.train_heads.")
        with open_bench(options.work, given, encoder, options.size) as bench:
            yield from measure(bench, reranked(bench, open_head(reader.folder)))
    for size in sizes if "chunks" in ablations else ():
        with open_bench(options.work, given, encoder, size) as bench:
            yield from measure(bench, hybrid_only(f"hybrid, {size} tokens", bench))
            yield from measure_packing(bench, size)


if __name__ == "__main__":
    main()
