"""Killed at any moment, a writer loses nothing that it reported done and leaves nothing half."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ingest.chunking import ChunkingOptions
from ingest.pipeline import run
from retrieval.encoders import HashingEncoder
from retrieval.maintenance import check
from retrieval.store import open_collection
from tests.crash import NAME, kill_again_and_again

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")

INGEST = """
import sys
from pathlib import Path
from ingest.chunking import ChunkingOptions
from ingest.pipeline import run
from retrieval.encoders import HashingEncoder
from retrieval.store import open_collection

home, folder = Path(sys.argv[1]), Path(sys.argv[2])
if __name__ == "__main__":
    with open_collection(home, "crash", HashingEncoder(), create=True) as collection:
        print("ready", flush=True)
        done = lambda outcome, *_: print(outcome.uri, flush=True)
        run([folder], collection, ChunkingOptions(max_tokens=16), on_file=done)
"""


@pytest.mark.parametrize("kills", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_at_any_moment_lose_nothing(home: Path, kills: int) -> None:
    outcome = kill_again_and_again(home, kills)
    assert outcome.kills == kills
    assert outcome.in_doubt >= kills / 4  # the moments were not all between two operations
    assert len(outcome.operations) >= 3, outcome


def of_environment(mark: str) -> list[int]:
    """Return the processes that were started with that mark in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue  # ended meanwhile, or not ours
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for orphans in /proc")
def test_a_killed_ingest_goes_on_and_leaves_no_process(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(400):
        sentences = (f"Text {number} has unique{number}w{place} words." for place in range(40))
        (folder / f"{number:03d}.txt").write_text(" ".join(sentences))
    script = tmp_path / "ingest_files.py"
    script.write_text(INGEST)
    mark = f"TETHER_TEST_MARK={os.getpid()}-{tmp_path.name}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    environment.update([mark.split("=")])  # type: ignore[list-item]
    chance = random.Random(7)
    reported: set[str] = set()
    embedded = total = 0
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, str(script), str(home), str(folder)],
            env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        first = child.stdout.readline()
        time.sleep(chance.uniform(0, 0.2))
        child.kill()
        reported |= {line.strip() for line in (first, *child.stdout) if line.endswith("\n")}
        child.wait()
        deadline = time.monotonic() + 30
        while of_environment(mark) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert of_environment(mark) == []
        assert [found for found in check(home, NAME) if found.severity == "error"] == []
        with open_collection(home, NAME, HashingEncoder()) as collection:
            assert reported <= set(collection.uris())
    with open_collection(home, NAME, HashingEncoder()) as collection:
        stored = collection.count_chunks()
        report = run([folder], collection, ChunkingOptions(max_tokens=16))
        embedded = sum(outcome.embedded for outcome in report.outcomes)
        total = collection.count_chunks()
        assert report.counts["failed"] == 0
        assert report.counts["unchanged"] >= len(reported)
        assert len(collection.uris()) == 400
    assert embedded <= total - stored
    assert check(home, NAME) == ()
