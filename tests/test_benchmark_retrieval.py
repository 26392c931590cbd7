"""The comparison of searches: our own systems and ablations over a tiny set, and the report."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.retrieval import (
    PACKING,
    fusions,
    hybrid_only,
    measure,
    measure_packing,
    open_bench,
    report,
    reranked,
)
from eval.rankings import Query, RankingSet
from eval.suites.retrieval import METRICS, RankingBench
from ingest.documents import content_id
from model.cross_encoder import Reading
from retrieval.encoders import HashingEncoder
from tests.tiny_sets import YEARS, asked

TEXTS = {content_id(asked(town)["context"]): asked(town)["context"] for town in YEARS}
QUERIES = tuple(
    Query(town, f"bridge of {town}", frozenset({key}), key, (YEARS[town],))
    for town, key in zip(YEARS, TEXTS, strict=True)
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[RankingBench]:
    given = RankingSet("towns", TEXTS, QUERIES)
    with open_bench(tmp_path, given, HashingEncoder(), 200) as opened:
        yield opened


def test_systems_are_scored_query_by_query(bench: RankingBench) -> None:
    assert set(bench.embedded) == {query.text for query in QUERIES}  # before any clock starts
    lexical, _ = bench.halves()
    ranked = {
        "lexical": lambda query: [hit.rowid for hit in lexical(query)],
        **hybrid_only("hybrid", bench),
        "random": lambda query: [hit.rowid for hit in bench.at_random(0)(query)],
    }
    rows = list(measure(bench, ranked))
    assert len(rows) == 3 * len(QUERIES)
    assert all(row["recall@1"] == 1.0 for row in rows if row["system"] == "lexical")
    assert all(set(METRICS) <= row.keys() for row in rows)
    text = "\n".join(report(rows))
    assert "| towns | recall@1 |" in text and "hybrid - random, ndcg@10:" in text
    same = [row | {"system": "copy"} for row in rows if row["system"] == "hybrid"]
    told = "\n".join(report([*same, *rows])).partition("hybrid - copy, ndcg@10: ")[2]
    assert told.startswith("0.000 [-")  # no difference was seen, and it could go either way


class Finder:
    """Finds an answer in the chunks of one town alone."""

    def __init__(self, town: str) -> None:
        self._town = town

    def read_pairs(self, pairs: list[tuple[str, str]]) -> list[Reading]:
        return [Reading(0, 0, 1, float(self._town in text), 0.0) for _, text in pairs]


def test_a_reader_orders_the_first_hits_anew(bench: RankingBench) -> None:
    query, other = QUERIES[0], QUERIES[1].id
    ways = reranked(bench, Finder(other))  # type: ignore[arg-type]
    assert bench.texts_of(ways["hybrid"](query))[0] in query.relevant
    alone = ways["reader, weight 1.0"](query)
    assert other in bench.chunks[alone[0]].chunk.text
    assert sorted(alone) == sorted(ways["hybrid"](query))
    assert bench.texts_of(ways["reader, weight 0.1"](query))[0] in query.relevant


def test_ablations_rank_the_same_chunks(bench: RankingBench) -> None:
    ways = fusions(bench)
    assert "ranks, constant 60" in ways and "scores, dense weight 0.6" in ways
    found = {name: rank(QUERIES[0]) for name, rank in ways.items()}
    assert {frozenset(numbers) for numbers in found.values()} == {frozenset(bench.chunks)}
    rows = list(measure_packing(bench, 200))
    assert len(rows) == 3 * len(QUERIES) and all(row[PACKING] == 1.0 for row in rows)
    assert "| 200 tokens, window |" in "\n".join(report(rows))
