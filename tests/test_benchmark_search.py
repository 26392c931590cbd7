"""The benchmark of search: vectors like real ones, and rows that its table can be built from."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.search import (
    DOCUMENT,
    MEAN_NORM,
    Bench,
    Mixture,
    build_collection,
    main,
    render,
)
from retrieval.index import verify


def test_vectors_have_the_statistics_of_real_ones() -> None:
    mixture = Mixture(0, 100_000)
    vectors, topics = mixture.batch(0)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.linalg.norm(vectors.mean(axis=0)) == pytest.approx(MEAN_NORM, abs=0.02)
    cosines = vectors[::DOCUMENT] @ vectors[1::DOCUMENT].T
    assert np.diag(cosines).mean() == pytest.approx(0.90, abs=0.02)  # in one document
    assert cosines.mean() == pytest.approx(0.755, abs=0.02)
    own = (mixture.questions(vectors) * vectors).sum(axis=1)
    assert own.mean() == pytest.approx(0.89, abs=0.02)
    assert len(set(topics.tolist())) > 100


def test_a_batch_is_the_same_each_time_and_unlike_the_others() -> None:
    first, _ = Mixture(0, 1000).batch(1)
    again, _ = Mixture(0, 1000).batch(1)
    other, _ = Mixture(0, 1000).batch(2)
    assert (first == again).all()
    assert not np.isclose(first, other).all(axis=1).any()


def test_it_measures_all_stages_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ["--rows", "600", "--queries", "5", "--work", str(tmp_path), "--out", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    rows = {row["stage"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert rows["ours"]["recall"] == 1.0
    assert rows["ours"]["kind"] == "exact"
    assert rows["lexical"]["overlap"] == 1.0
    assert rows["peer"]["recall"] > 0.5
    assert all(row["p99_ms"] >= row["p50_ms"] > 0 for row in rows.values())
    assert build_collection(tmp_path, 600, 0) == 0.0  # it is there
    with Bench(tmp_path, 600, 0, 5).open() as collection:
        assert collection.count_chunks() == 600
        assert verify(collection.directory) == []
        chunk = collection.chunks_by_rowid([599])[599].chunk
        document = collection.document(chunk.document_id)
        assert document is not None and document.text[chunk.start : chunk.end] == chunk.text


def test_growth_is_per_tenfold() -> None:
    rows = [
        {"stage": "ours", "rows": size, "p50_ms": p50, "p99_ms": 9.0, "peak_bytes": 1}
        for size, p50 in ((1_000, 1.0), (100_000, 4.0))
    ]
    assert " 2.00 " in render(rows)


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    arguments = ["--stages", "nonsense", "--work", str(tmp_path), "--out", str(tmp_path / "o")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "nonsense" in result.output
