"""The ingest benchmark: its corpora follow from a seed, its stages run, its figures add up."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.corpus import change_files, passages, write_generated, write_passages
from benchmarks.ingest import MemoryWatch, StubEncoder, family, flops_per_token, report
from retrieval.encoders import Encoder

LONG = [f"Passage {n} tells of harbour {n} and of its lantern. " * 5 for n in range(40)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "set"
    folder.mkdir(parents=True)
    rows: list[dict[str, object]]
    rows = [{"context": text, "question": "no passage " * 30} for text in LONG[:30]]
    rows += [{"contexts": LONG[25:]}, {"text": "short"}, {"text": "港口的灯。" * 20}]
    with gzip.open(folder / "set.dev.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder.parent


def read(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*.txt"))}


def test_passages_are_distinct_and_long(data: Path) -> None:
    assert passages(data) == [*(text.strip() for text in LONG), "港口的灯。" * 20]


def test_a_corpus_follows_from_its_seed(data: Path, tmp_path: Path) -> None:
    corpus = write_passages(data, tmp_path / "a", chunks=1000, seed=3)
    write_passages(data, tmp_path / "b", chunks=1000, seed=3)
    write_passages(data, tmp_path / "c", chunks=1000, seed=4)
    texts = read(tmp_path / "a")
    assert texts == read(tmp_path / "b") != read(tmp_path / "c")
    assert len(corpus.files) == len(texts) > 1
    assert corpus.characters == sum(map(len, texts.values()))
    everything = "\n\n".join(texts.values()).split("\n\n")
    assert sorted(text.strip() for text in everything) == sorted(passages(data))


def test_a_corpus_is_as_large_as_asked_for(data: Path, tmp_path: Path) -> None:
    assert len(write_passages(data, tmp_path / "a", chunks=1).files) == 1


def test_one_sentence_changes_in_a_share_of_the_files(data: Path, tmp_path: Path) -> None:
    corpus = write_passages(data, tmp_path / "a", chunks=1000)
    before = read(tmp_path / "a")
    changed = change_files(corpus.files, share=0.01)
    after = read(tmp_path / "a")
    assert [name for name in after if after[name] != before[name]] == [
        changed[0].relative_to(tmp_path / "a").as_posix()
    ]


def test_generated_text_has_the_size_asked_for(tmp_path: Path) -> None:
    corpus = write_generated(tmp_path / "a", size=50_000, file_size=20_000)
    sizes = [path.stat().st_size for path in corpus.files]
    assert len(sizes) == 3
    assert 50_000 - 3 <= sum(sizes) < 51_000
    assert corpus.characters == sum(map(len, read(tmp_path / "a").values()))


def test_the_stub_tells_texts_apart_and_repeats_itself() -> None:
    encoder: Encoder = StubEncoder()
    vectors = encoder.encode_passages(["a", "b", "a"])
    assert (vectors[0] == vectors[2]).all()
    assert abs(float(vectors[0] @ vectors[1])) < 0.3


def test_operations_of_a_token() -> None:
    weights = 21_233_664  # of the linear layers of 12 layers of width 384 and 1536
    assert flops_per_token(0) == 2 * weights
    assert flops_per_token(200) == 2 * weights + 12 * 4 * 200 * 384


def test_memory_of_a_process_and_its_child_is_seen() -> None:
    grow = "data = bytearray(60_000_000); data[::4096] = bytes([1]) * len(data[::4096]); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grow!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE) as process:
        watch = MemoryWatch(process.pid)
        while not watch.samples or watch.samples[-1] < 60:
            assert process.poll() is None
        members = family(process.pid)
        process.communicate(b"\n")
    watch.stop()
    assert len(members) == 2 and os.getpid() not in members


def test_the_memory_stage_runs_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.ingest", "--memory", "--bytes", "40000"]
    command += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out.jsonl")]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.startswith("memory: ")
    (row,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert row["files"] == 1 and row["chunks"] == row["embedded"] > 40
    assert row["peak_mb"] >= max(row["memory_mb"]) - 1 > 20


def test_the_report_compares_like_with_like() -> None:
    ours = {"chunks": 100, "characters": 1000, "tokens": 900, "seconds": 1, "changed_seconds": 0.1}
    peer = {"chunks": 50, "characters": 1000, "tokens": 900, "seconds": 4}
    machine = {"numpy_gflops": 0.1, "torch_gflops": 0.01}
    lines = list(report({"ours": ours, "peer-matched": peer, "machine": machine}))
    assert "fresh, chunks a second, ours / peer-matched: 8.00" in lines
    assert "fresh, tokens a second, ours / peer-matched: 4.00" in lines
    assert "1% of the files changed, peer-matched rebuilds: 40.0 times our time" in lines
