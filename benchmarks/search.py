"""Measure search at growing numbers of chunks: exact, ours, a peer, and hybrid end to end.

    python -m benchmarks.search --rows 10000,100000,1000000 --work bench --out search.jsonl
    python -m benchmarks.search --rows 1000000 --stages ours,hybrid --work bench --out search.jsonl

Vectors come from a seeded mixture (topics, documents in topics, chunks in documents) whose mean,
spectrum and cosines follow those of multilingual-e5-small over 1,800 English and Chinese
paragraphs; queries lie as far from their chunk as real questions lie from theirs. Texts are drawn
from Zipf vocabularies, half the documents in English and half in Chinese. Both are kept in one
collection a size under `--work`, so a second run builds nothing, and `--stages` may be measured
one at a time. Each stage runs in a process of its own, whose peak memory is reported. Stages:

    exact    FAISS's flat index in memory: the truth for the others
    ours     DenseIndex: built, then opened anew (its first query includes opening it)
    peer     usearch, HNSW with its defaults over half-precision vectors
    lexical  LexicalSearch: beside the full ranking, and how much of its first ten is the same
    hybrid   CollectionSearcher end to end, without the embedding of the query
"""

import json
import multiprocessing
import resource
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from ingest.documents import content_id
from retrieval.encoders import EncoderIdentity, Vectors
from retrieval.lexical import LexicalSearch
from retrieval.search import CollectionSearcher
from retrieval.store import TRUTH, Collection, open_collection
from retrieval.terms import index_terms, query_expression

DIMENSION = 384
DOCUMENT = 12  # chunks per document
TOPIC = 400  # chunks per topic
BATCH = 12_000  # chunks made at a time: whole documents
TERMS = 100  # terms per chunk
VOCABULARY = 400_000  # words per language
FUNCTION_RANKS = 50  # words as frequent as these are not asked for
TOP_K = 10

# Of multilingual-e5-small over paragraphs of SQuAD, CMRC 2018 and DRCD, and their questions.
MEAN_NORM = 0.869
QUESTION_OFFSET = 0.13  # length of the mean difference between a question and its paragraph
QUESTION_NOISE = 0.8  # variance of the rest, as a share of the variance of all chunks
TOPIC_SHARE, DOCUMENT_SHARE, CHUNK_SHARE = 0.35, 0.25, 0.4  # of the variance: cosine .9 in one

_COMMON_HAN = (
    "人大中国学生会时年地方工作发家市民文化社电影公司长城山水江海火车天气月日明星花木书法"
    "历史语言东西南北京上下前后高低新老小多少美好安全开关进出口心力手足头目说话读写来去"
)


class Mixture:
    """Seeded vectors, clustered like real ones: any batch of them can be made by itself."""

    def __init__(self, seed: int, rows: int) -> None:
        draw = np.random.default_rng([seed, 0])
        basis = np.linalg.qr(draw.normal(size=(DIMENSION, DIMENSION)))[0]
        spectrum = (np.arange(DIMENSION) + 1.0) ** -0.9  # the first ten hold a third
        spectrum *= (1 - MEAN_NORM**2) / spectrum.sum()
        self._spread = (np.sqrt(spectrum)[:, np.newaxis] * basis).astype(np.float32)
        self._mean = (basis[-1] * MEAN_NORM).astype(np.float32)
        self._offset = (basis[DIMENSION // 2] * QUESTION_OFFSET).astype(np.float32)
        topics = max(1, rows // TOPIC)
        self._topics = draw.normal(size=(topics, DIMENSION)).astype(np.float32)
        self._seed = seed

    def batch(self, number: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Return the vectors of a batch, shape (BATCH, DIMENSION), and their topics, (BATCH,)."""
        draw = np.random.default_rng([self._seed, 1, number])
        topics = draw.integers(len(self._topics), size=BATCH // DOCUMENT)
        documents = self._topics[topics] * np.float32(TOPIC_SHARE**0.5)
        documents += _normal(draw, len(topics)) * np.float32(DOCUMENT_SHARE**0.5)
        latent = np.repeat(documents, DOCUMENT, axis=0)
        latent += _normal(draw, BATCH) * np.float32(CHUNK_SHARE**0.5)
        return _unit(self._mean + latent @ self._spread), np.repeat(topics, DOCUMENT)

    def questions(self, vectors: Vectors) -> Vectors:
        """Return a question for each of these chunks, both of shape (n, DIMENSION)."""
        draw = np.random.default_rng([self._seed, 2])
        noise = _normal(draw, len(vectors)) @ self._spread * np.float32(QUESTION_NOISE**0.5)
        return _unit(vectors + self._offset + noise)


def _normal(draw: np.random.Generator, rows: int) -> Vectors:
    return draw.standard_normal((rows, DIMENSION), dtype=np.float32)


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


class Synthetic:
    """An encoder that knows the vectors of the questions and of nothing else."""

    def __init__(self, known: dict[str, Vectors] | None = None) -> None:
        self._known = known or {}
        self.identity = EncoderIdentity("synthetic mixture", "0" * 64, DIMENSION)

    def encode_queries(self, texts: list[str]) -> Vectors:
        return np.stack([self._known[text] for text in texts])

    encode_passages = encode_queries

    def count_tokens(self, text: str) -> int:
        return len(text.split())


# Texts


@cache
def _vocabularies() -> tuple[list[str], list[str]]:
    """Return English and Chinese words by rank; the rarest of both are names of letters."""
    pairs = (a + b for a in _COMMON_HAN for b in _COMMON_HAN if a != b)
    chinese = [pair for pair in pairs if index_terms(pair) == pair]  # whole words to the segmenter
    chinese += [f"m{number}" for number in range(len(chinese), VOCABULARY)]
    return [f"w{number}" for number in range(VOCABULARY)], chinese


@cache
def _cumulated() -> NDArray[np.float64]:
    """Return the cumulated frequencies by rank (Zipf and Mandelbrot), shape (VOCABULARY,)."""
    shares = (np.arange(VOCABULARY) + 2.7) ** -1.05
    cumulated: NDArray[np.float64] = np.cumsum(shares / shares.sum())
    return cumulated


def _ranks(topics: NDArray[np.int64], seed: Sequence[int]) -> NDArray[np.int64]:
    """Return the ranks of words of chunks, shape (chunks, TERMS): an eighth belong to the topic."""
    draw = np.random.default_rng(seed)
    ranks = np.searchsorted(_cumulated(), draw.random((len(topics), TERMS), dtype=np.float32))
    own = TERMS // 8
    spread = draw.geometric(0.05, size=(len(topics), own))  # some 60 words a topic
    ranks[:, :own] = (1_000 + topics[:, np.newaxis] * 61 + spread) % VOCABULARY
    return np.minimum(ranks, VOCABULARY - 1).astype(np.int64)


def _question(text: str, draw: np.random.Generator) -> str:
    """Return a question of five words of the text, none of the most frequent."""
    frequent = {word for words in _vocabularies() for word in words[:FUNCTION_RANKS]}
    words = [word for word in dict.fromkeys(text.split()) if word not in frequent]
    return " ".join(words[i] for i in draw.choice(len(words), min(5, len(words)), replace=False))


# The collection


def build_collection(home: Path, rows: int, seed: int) -> float:
    """Make the collection of so many rows unless it is there; return the seconds it took."""
    directory = home / "collections" / _name(rows, seed)
    if (directory / "complete").exists():
        return 0.0
    shutil.rmtree(directory, ignore_errors=True)
    started = time.perf_counter()
    open_collection(home, directory.name, Synthetic(), create=True).close()
    with closing(sqlite3.connect(directory / TRUTH)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for number in range(-(-rows // BATCH)):
            _insert(connection, Mixture(seed, rows), number, min(BATCH, rows - number * BATCH))
            connection.commit()
        connection.execute("INSERT INTO terms (terms) VALUES ('optimize')")
        connection.execute("DELETE FROM changes")
        connection.commit()
    (directory / "complete").touch()
    return time.perf_counter() - started


def _insert(connection: sqlite3.Connection, mixture: Mixture, batch: int, rows: int) -> None:
    """Insert a batch past the store's own checks, which would take hours here."""
    vectors, topics = mixture.batch(batch)
    ranks = _ranks(topics[:rows], [batch, 3])
    for first in range(0, rows, DOCUMENT):
        words = _vocabularies()[first // DOCUMENT % 2]
        texts = [" ".join(words[rank] for rank in row) for row in ranks[first : first + DOCUMENT]]
        whole = "\n".join(texts)
        numbers = range(batch * BATCH + first + 1, batch * BATCH + first + 1 + len(texts))
        identity = content_id(f"{numbers[0]} {whole}")
        connection.execute(
            "INSERT INTO documents (id, title, language, media_type, metadata, sections, text) "
            "VALUES (?, ?, 'und', 'text/plain', '{}', '[]', ?)",
            (identity, f"document {numbers[0]}", whole),
        )
        connection.execute(
            "INSERT INTO sources (uri, file_hash, document_id) VALUES (?, '', ?)",
            (f"file:{numbers[0]}", identity),
        )
        _insert_chunks(connection, identity, texts, numbers, vectors[first : first + len(texts)])


def _insert_chunks(
    connection: sqlite3.Connection, document: str, texts: list[str], numbers: range, made: Vectors
) -> None:
    ends = np.cumsum([len(text) + 1 for text in texts]).tolist()
    connection.executemany(
        'INSERT INTO chunks (number, document_id, start, "end", heading, text) '
        "VALUES (?, ?, ?, ?, '', ?)",
        [
            (number, document, end - 1 - len(text), end - 1, text)
            for number, text, end in zip(numbers, texts, ends, strict=True)
        ],
    )
    blobs = [vector.astype("<f4").tobytes() for vector in made]
    connection.executemany("INSERT INTO vectors VALUES (?, ?)", zip(numbers, blobs, strict=True))
    connection.executemany(
        "INSERT INTO terms (rowid, words) VALUES (?, ?)", zip(numbers, texts, strict=True)
    )


def _name(rows: int, seed: int) -> str:
    return f"search-{rows}-{seed}"


# Stages


@dataclass(frozen=True, slots=True)
class Bench:
    """What a stage measures; all its parts can be sent to another process."""

    home: Path
    rows: int
    seed: int
    queries: int

    def open(self, known: dict[str, Vectors] | None = None) -> Collection:
        """Open the collection; its encoder knows these questions."""
        return open_collection(self.home, _name(self.rows, self.seed), Synthetic(known))

    def questions(self) -> tuple[list[str], Vectors]:
        """Return texts and vectors of the questions, each made from one chunk."""
        draw = np.random.default_rng([self.seed, 4])
        numbers = (draw.choice(self.rows, self.queries, replace=False) + 1).tolist()
        with self.open() as collection:
            chunks = collection.chunks_by_rowid(numbers)
            vectors = collection.vectors(numbers)
        texts = [_question(chunks[number].chunk.text, draw) for number in numbers]
        return texts, Mixture(self.seed, self.rows).questions(vectors)

    @property
    def truth(self) -> Path:
        """Where the exact stage leaves the nearest rows, shape (queries, TOP_K)."""
        return self.home / f"{_name(self.rows, self.seed)}-{self.queries}.npy"


Figures = dict[str, Any]


def measure_exact(bench: Bench) -> Figures:
    """Measure FAISS's flat index in memory and keep what it finds."""
    import faiss

    _, questions = bench.questions()
    started = time.perf_counter()
    index = faiss.IndexFlatIP(DIMENSION)
    for _, vectors in _vectors(bench):
        index.add(vectors)
    built = time.perf_counter() - started
    faiss.omp_set_num_threads(1)  # one query keeps one thread busy; more of them only wait

    def search(query: Vectors) -> list[int]:
        found: list[int] = (index.search(query[np.newaxis], TOP_K)[1][0] + 1).tolist()
        return found

    found, figures = _timed(search, list(questions))
    np.save(bench.truth, np.array(found))
    return figures | {"build_s": built, "bytes": 4 * DIMENSION * bench.rows, "recall": 1.0}


def build_ours(bench: Bench) -> Figures:
    """Build our index and write its snapshot."""
    from retrieval.index import DenseIndex

    with bench.open() as collection:
        for path in collection.directory.glob("manifest.json"):
            path.unlink()
        started = time.perf_counter()
        DenseIndex(collection)
        return {"build_s": time.perf_counter() - started}


def measure_ours(bench: Bench) -> Figures:
    """Measure our index, opened from its snapshot."""
    from retrieval.index import DenseIndex, read_manifest

    _, questions = bench.questions()
    with bench.open() as collection:
        started = time.perf_counter()
        index = DenseIndex(collection)
        index.search(questions[0], top_k=TOP_K)
        first = time.perf_counter() - started

        def search(query: Vectors) -> list[int]:
            return [number for number, _ in index.search(query, top_k=TOP_K)]

        found, figures = _timed(search, list(questions))
        manifest = read_manifest(collection.directory)
    size = {} if manifest is None else {"bytes": manifest.size, "kind": manifest.kind}
    return figures | size | {"first_ms": 1e3 * first, "recall": _recall(bench, found)}


def measure_peer(bench: Bench) -> Figures:
    """Measure usearch's HNSW index with its defaults."""
    from usearch.index import Index

    _, questions = bench.questions()
    started = time.perf_counter()
    index = Index(ndim=DIMENSION, metric="ip", dtype="f16")
    for numbers, vectors in _vectors(bench):
        index.add(numbers.astype(np.uint64), vectors)
    built = time.perf_counter() - started

    def search(query: Vectors) -> list[int]:
        found: list[int] = index.search(query, TOP_K).keys.tolist()
        return found

    found, figures = _timed(search, list(questions))
    recall = _recall(bench, found)
    return figures | {"build_s": built, "bytes": int(index.memory_usage), "recall": recall}


def measure_lexical(bench: Bench) -> Figures:
    """Measure lexical search beside the full ranking, which is asked for fewer questions."""
    texts, _ = bench.questions()
    with bench.open() as collection:
        lexical = LexicalSearch(collection)

        def full(text: str) -> list[int]:
            hits = collection.match_terms(query_expression(text), top_k=50)
            return [number for number, _ in hits]

        def ours(text: str) -> list[int]:
            return [hit.rowid for hit in lexical(text, top_k=50)]

        found, figures = _timed(ours, texts)
        wanted, of_full = _timed(full, texts[: max(1, len(texts) // 4)])
    shared = [len({*a[:TOP_K]} & {*b[:TOP_K]}) / TOP_K for a, b in zip(wanted, found, strict=False)]
    return figures | {"overlap": float(np.mean(shared)), "full_p50_ms": of_full["p50_ms"]}


def measure_hybrid(bench: Bench) -> Figures:
    """Measure a search from the text of the question to its passages."""
    texts, vectors = bench.questions()
    with bench.open(dict(zip(texts, vectors, strict=True))) as collection:
        searcher = CollectionSearcher(collection)
        return _timed(lambda text: searcher.search(text, top_k=TOP_K), texts)[1]


def _vectors(bench: Bench) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
    with bench.open() as collection:
        yield from collection.iterate_vectors(BATCH)


def _timed(search: Callable[[Any], Any], queries: Sequence[Any]) -> tuple[list[Any], Figures]:
    """Ask each query once; return what was found, and percentiles in milliseconds."""
    found, took = [], []
    for query in queries:
        started = time.perf_counter()
        found.append(search(query))
        took.append(1e3 * (time.perf_counter() - started))
    p50, p99 = np.percentile(took, [50, 99]).tolist()
    return found, {"p50_ms": p50, "p99_ms": p99}


def _recall(bench: Bench, found: Sequence[Sequence[int]]) -> float | None:
    """Return recall@10 against the exact stage, None if that has not run."""
    if not bench.truth.exists():
        return None
    truth = np.load(bench.truth).tolist()
    shares = [len({*a} & {*b}) / TOP_K for a, b in zip(found, truth, strict=True)]
    return float(np.mean(shares))


STAGES: dict[str, tuple[Callable[[Bench], Figures], ...]] = {
    "exact": (measure_exact,),
    "ours": (build_ours, measure_ours),
    "peer": (measure_peer,),
    "lexical": (measure_lexical,),
    "hybrid": (measure_hybrid,),
}


def _run(measure: Callable[[Bench], Figures], bench: Bench) -> Figures:
    """Measure in this process, which does nothing else; its peak memory in bytes is added."""
    return measure(bench) | {"peak_bytes": _peak_bytes()}


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage() on Linux also counts the process that started this one
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_stage(stage: str, bench: Bench) -> Figures:
    """Return the figures of a stage; each of its parts has a fresh process."""
    row: Figures = {"stage": stage, "rows": bench.rows, "seed": bench.seed}
    for measure in STAGES[stage]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            figures = pool.apply(_run, (measure, bench))
        if measure is build_ours:
            figures["build_peak_bytes"] = figures.pop("peak_bytes")
        row |= figures
    return row


def render(rows: Sequence[Figures]) -> str:
    """Return a table of stages by size; `growth` is p50 against the size before, per tenfold."""
    lines = ["stage      rows     recall  p50 ms  p99 ms  growth  build s  index MB  peak MB"]
    before: dict[str, Figures] = {}
    for row in sorted(rows, key=lambda row: (list(STAGES).index(row["stage"]), row["rows"])):
        last = before.get(row["stage"])
        growth = ""
        if last is not None and row["rows"] > last["rows"]:
            tenfolds = np.log10(row["rows"] / last["rows"])
            growth = f"{(row['p50_ms'] / last['p50_ms']) ** (1 / tenfolds):.2f}"
        before[row["stage"]] = row
        recall = row.get("recall", row.get("overlap"))
        shown = "" if recall is None else f"{recall:.4f}"
        lines.append(
            f"{row['stage']:<8} {row['rows']:>8} {shown:>8} {row['p50_ms']:>7.2f}"
            f" {row['p99_ms']:>7.2f} {growth:>7} {row.get('build_s', 0):>8.1f}"
            f" {row.get('bytes', 0) / 1e6:>9.1f} {row['peak_bytes'] / 1e6:>8.0f}"
        )
    return "\n".join(lines)


@click.command(help=__doc__.partition("\n")[0] if __doc__ else None)
@click.option("--rows", default="10000,100000,1000000", show_default=True, help="Sizes.")
@click.option("--stages", default=",".join(STAGES), show_default=True, help="What to measure.")
@click.option("--queries", default=200, show_default=True, help="Questions per stage.")
@click.option("--seed", default=0, show_default=True, help="Of vectors, texts and questions.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Keeps collections.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON lines, appended.")
def main(rows: str, stages: str, queries: int, seed: int, work: Path, out: Path) -> None:
    """Build what is missing, measure, append and print."""
    unknown = set(stages.split(",")) - STAGES.keys()
    if unknown:
        raise click.BadParameter(f"unknown: {', '.join(sorted(unknown))}", param_hint="--stages")
    measured = []
    for size in (int(part) for part in rows.split(",")):
        seconds = build_collection(work, size, seed)
        click.echo(f"{size} chunks: collection made in {seconds:.0f} s", err=True)
        for stage in stages.split(","):
            measured.append(run_stage(stage, Bench(work, size, seed, queries)))
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(measured[-1]) + "\n")
            click.echo(json.dumps(measured[-1]), err=True)
    click.echo(render(measured))


if __name__ == "__main__":
    main()
