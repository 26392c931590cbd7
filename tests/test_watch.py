"""Watching real folders: a first run, a run after each change, and folders that come and go."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from threading import Event, Thread

import pytest

from ingest.chunking import ChunkingOptions
from ingest.pipeline import ListSink, PipelineOptions, Report, run
from ingest.watch import watch


class Watched:
    """A folder that is watched in a thread; every run's report comes out of a queue."""

    def __init__(self, folder: Path) -> None:
        self.sink = ListSink()
        self.stop = Event()
        self.reports: Queue[Report] = Queue()
        self.folder = folder
        self.thread = Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        watch([self.folder], self._ingest, self.stop, debounce_seconds=0.2)

    def _ingest(self) -> None:
        options = PipelineOptions(prune=True)
        self.reports.put(run([self.folder], self.sink, ChunkingOptions(), pipeline=options))

    def wait_for(self, status: str) -> str:
        """Return the file name of the next outcome of this status."""
        while True:
            for outcome in self.reports.get(timeout=60).outcomes:
                if outcome.status == status:
                    return Path(outcome.uri).name


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "first.txt").write_text("First.")
    made = Watched(folder)
    yield made
    made.stop.set()
    made.thread.join(30)
    assert not made.thread.is_alive()


def test_changes_are_followed(watched: Watched) -> None:
    assert watched.wait_for("added") == "first.txt"
    (watched.folder / "sub").mkdir()
    (watched.folder / "sub" / "second.txt").write_text("Second.")
    assert watched.wait_for("added") == "second.txt"
    (watched.folder / "first.txt").write_text("Changed.")
    assert watched.wait_for("updated") == "first.txt"
    (watched.folder / "sub" / "second.txt").rename(watched.folder / "moved.txt")
    assert watched.wait_for("moved") == "moved.txt"
    (watched.folder / "moved.txt").unlink()
    assert watched.wait_for("removed") == "moved.txt"
    assert [Path(uri).name for uri in watched.sink.uris()] == ["first.txt"]


def test_hidden_and_foreign_files_cause_no_run(watched: Watched) -> None:
    watched.wait_for("added")
    (watched.folder / ".hidden.txt").write_text("x")
    (watched.folder / "truth.sqlite3").write_text("x")
    (watched.folder / "second.txt").write_text("Second.")
    assert watched.wait_for("added") == "second.txt"
    assert watched.reports.empty()


def test_a_folder_that_vanishes_and_returns_is_followed_again(watched: Watched) -> None:
    watched.wait_for("added")
    shutil.rmtree(watched.folder)
    watched.wait_for("failed")
    watched.folder.mkdir()
    (watched.folder / "back.txt").write_text("Back.")
    assert watched.wait_for("added") == "back.txt"
    (watched.folder / "later.txt").write_text("Later.")
    assert watched.wait_for("added") == "later.txt"


def test_a_folder_made_anew_within_a_run_is_followed(tmp_path: Path) -> None:
    folder, stop, seen = tmp_path / "notes", Event(), Queue[list[str]]()
    folder.mkdir()

    def ingest() -> None:
        if not (tmp_path / "replaced").exists():
            (tmp_path / "replaced").touch()
            folder.rmdir()
            folder.mkdir()  # gets the same inode number from most file systems
        seen.put(sorted(path.name for path in folder.iterdir()))

    thread = Thread(target=watch, args=([folder], ingest, stop), kwargs={"debounce_seconds": 0.2})
    thread.start()
    try:
        seen.get(timeout=60)  # the run that replaced it
        seen.get(timeout=60)  # the new folder is followed
        (folder / "later.txt").write_text("Later.")
        while "later.txt" not in seen.get(timeout=60):
            pass
    finally:
        stop.set()
        thread.join(30)


def test_an_error_of_the_ingest_ends_the_watch(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        watch([tmp_path], fail, Event())
