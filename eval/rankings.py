"""Retrieval measured: sets of queries with their relevant texts, and metrics over rankings.

    for ranking_set in load_ranking_sets(["drcd", "cranfield"], find_data(Path("data"))):
        ...  # rank ranking_set.texts for each query
    recall(ranked, query.relevant, 5)

Everything is by text id, which is the hash of the text. Knows nothing of how a ranking is made.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.datasets import fields_of, read_rows
from ingest.documents import content_id
from ingest.errors import UsageError
from ingest.languages import simplified


@dataclass(frozen=True, slots=True)
class Query:
    """A question and the ids of the texts that answer it; `cluster` groups dependent ones."""

    id: str
    text: str
    relevant: frozenset[str]
    cluster: str
    answers: tuple[str, ...] = ()  # where the set has short ones that stand in the text


@dataclass(frozen=True, slots=True)
class RankingSet:
    """Texts to be ranked, by id, and the queries to rank them for."""

    name: str
    texts: Mapping[str, str]
    queries: tuple[Query, ...]
    remark: str = ""  # what a reader must know of its judgements


def recall(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Return the share of the relevant texts among the first k."""
    return len(set(ranked[:k]) & set(relevant)) / len(relevant)


def complete(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Return 1.0 if all relevant texts are among the first k (for questions that need both)."""
    return float(set(relevant) <= set(ranked[:k]))


def first_reciprocal_rank(ranked: Sequence[str], relevant: Collection[str], k: int = 10) -> float:
    """Return 1 / rank of the first relevant text within the first k, 0.0 if there is none."""
    return next((1 / rank for rank, text in enumerate(ranked[:k], 1) if text in relevant), 0.0)


def ndcg(ranked: Sequence[str], relevant: Collection[str], k: int = 10) -> float:
    """Return the normalised discounted cumulative gain of the first k, relevance being 0 or 1.

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002, with
    the discount 1 / log2(rank + 1).
    """
    gain = math.fsum(_discount(r) for r, text in enumerate(ranked[:k], 1) if text in relevant)
    return gain / math.fsum(_discount(r) for r in range(1, min(k, len(relevant)) + 1))


def _discount(rank: int) -> float:
    return 1 / math.log2(rank + 1)


def load_ranking_sets(names: Iterable[str], data: Path) -> Iterator[RankingSet]:
    """Yield the sets of those names; a name may stand for one set per language.

    Raises:
        UsageError: A name is unknown, or a file is missing or damaged.
    """
    for name in names:
        if name not in RANKING_SETS:
            known = ", ".join(RANKING_SETS)
            raise UsageError(f"There is no retrieval set {name!r}; choose from: {known}.")
        with fields_of(f"The retrieval set {name!r}"):
            sets = list(RANKING_SETS[name](name, data))
        yield from sets


def _from_paragraphs(name: str, data: Path) -> Iterator[RankingSet]:
    """Questions over paragraphs: all paragraphs of a language are ranked, one is relevant."""
    rows = [row for _, row in read_rows(data / name / f"{name}.dev.jsonl.gz")]
    for language in sorted({row["lang"] for row in rows}):
        own = [row for row in rows if row["lang"] == language and row.get("answerable", True)]
        texts = {content_id(row["context"]): row["context"] for row in own}
        queries = tuple(
            Query(row["id"], row["question"], frozenset({key}), key, tuple(row["answers"]))
            for row in own
            for key in [content_id(row["context"])]
        )
        yield RankingSet(f"{name} {language}", texts, queries)


def _across_scripts(name: str, data: Path) -> Iterator[RankingSet]:
    """Traditional paragraphs, asked once in their own script and once in simplified characters."""
    for ranking_set in _from_paragraphs(name, data):
        yield ranking_set
        queries = tuple(replace(q, text=simplified(q.text)) for q in ranking_set.queries)
        remark = "traditional texts, simplified questions"
        yield RankingSet(f"{name} simplified", ranking_set.texts, queries, remark)


def _from_candidates(name: str, data: Path) -> Iterator[RankingSet]:
    """Questions with positives and negatives of their own: all texts of the set are ranked."""
    rows = [row for _, row in read_rows(data / name / f"{name}.dev.jsonl.gz")]
    texts = {content_id(t): t for row in rows for t in [*row["positive"], *row["negative"]]}
    queries = tuple(
        Query(row["id"], row["question"], frozenset(map(content_id, row["positive"])), row["id"])
        for row in rows
        if row["positive"]  # else there is nothing to be found
    )
    yield RankingSet(name, texts, queries, "other questions' texts are taken as irrelevant")


def _from_supplied(name: str, data: Path) -> Iterator[RankingSet]:
    """Questions with ten passages of another system: an answerable question's own are relevant."""
    rows = [row for _, row in read_rows(data / name / f"{name}.dev.jsonl.gz")]
    for language in sorted({row["lang"] for row in rows}):
        own = [row for row in rows if row["lang"] == language]
        texts = {content_id(text): text for row in own for text in row["contexts"]}
        queries = tuple(
            Query(
                row["id"],
                row["question"],
                frozenset(map(content_id, row["contexts"])),
                content_id("\n".join(row["contexts"])),
            )
            for row in own
            if row["answerable"]
        )
        remark = "silver: all ten supplied passages count as relevant"
        yield RankingSet(f"{name} {language}", texts, queries, remark)


def _from_judgements(name: str, data: Path) -> Iterator[RankingSet]:
    """A corpus with judged queries."""
    corpus: dict[str, str] = {}
    texts: dict[str, str] = {}
    for _, row in read_rows(data / name / "corpus.jsonl.gz"):
        text = "\n".join(part for part in (row["title"], row["text"]) if part)
        if text:
            corpus[row["id"]] = content_id(text)
            texts[corpus[row["id"]]] = text
    queries = []
    for _, row in read_rows(data / name / "queries.dev.jsonl.gz"):
        relevant = frozenset(corpus[key] for key in _judged(row) if key in corpus)
        if relevant:
            queries.append(Query(row["id"], row["question"], relevant, row["id"]))
    yield RankingSet(name, texts, tuple(queries))


def _judged(row: Mapping[str, Any]) -> list[str]:
    return [key for key, degree in row["relevant"].items() if degree > 0]


RANKING_SETS: Mapping[str, Callable[[str, Path], Iterator[RankingSet]]] = {
    "xquad": _from_paragraphs,
    "cmrc2018": _from_paragraphs,
    "drcd": _across_scripts,
    "dureader_rank": _from_candidates,
    "hotpotqa": _from_candidates,
    "cranfield": _from_judgements,
    "nomiracl": _from_supplied,
}
