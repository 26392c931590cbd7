"""The pipeline over real folders: what is found, skipped, updated, and survives."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from ingest.chunking import ChunkingOptions
from ingest.documents import Chunk, Document
from ingest.errors import StoreError
from ingest.pipeline import Added, FileOutcome, ListSink, Report, file_hash, run

OPTIONS = ChunkingOptions(max_tokens=50)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def statuses(report: Report) -> list[tuple[str, str]]:
    return [(Path(outcome.uri).name, outcome.status) for outcome in report.outcomes]


def test_a_folder_is_searched_in_order_and_the_rest_skipped(tmp_path: Path) -> None:
    for name in ["b.md", "a/z.txt", "a/报告.txt", ".hidden.txt", ".git/x.txt", "photo.png"]:
        write(tmp_path / "docs" / name, f"Text of {name}.")
    outside = write(tmp_path / "outside" / "secret.txt", "Outside.")
    (tmp_path / "docs" / "link.txt").symlink_to(outside)
    (tmp_path / "docs" / "away").symlink_to(outside.parent)
    (tmp_path / "docs" / "circle").symlink_to(tmp_path / "docs")
    sink = ListSink()
    report = run([tmp_path / "docs"], sink, OPTIONS)
    assert statuses(report) == [("b.md", "added"), ("z.txt", "added"), ("报告.txt", "added")]
    assert report.counts == {"added": 3, "updated": 0, "unchanged": 0, "duplicate": 0, "failed": 0}
    document, chunks = sink.documents[(tmp_path / "docs" / "a" / "报告.txt").as_posix()]
    assert document.text == "Text of a/报告.txt."
    assert [chunk.text for chunk in chunks] == [document.text]


def test_unchanged_updated_duplicate(tmp_path: Path) -> None:
    first, second = (
        write(tmp_path / "1.txt", "Same text."),
        write(tmp_path / "2.txt", "Other text."),
    )
    sink = ListSink()
    run([tmp_path], sink, OPTIONS)
    assert [o.status for o in run([tmp_path], sink, OPTIONS).outcomes] == ["unchanged"] * 2
    write(first, "New text. Much longer.")
    assert statuses(run([tmp_path], sink, OPTIONS)) == [
        ("1.txt", "updated"),
        ("2.txt", "unchanged"),
    ]
    write(first, "Other text.")
    assert statuses(run([first, second], sink, OPTIONS))[0] == ("1.txt", "duplicate")
    assert statuses(run([first], sink, OPTIONS)) == [("1.txt", "unchanged")]


def test_another_chunk_size_ingests_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "One two three. Four five six.")
    sink = ListSink()
    assert run([path], sink, OPTIONS).outcomes[0].chunks == 1
    again = run([path], sink, ChunkingOptions(max_tokens=4)).outcomes[0]
    assert (again.status, again.chunks) == ("updated", 2)


def test_unchanged_files_are_not_parsed(tmp_path: Path) -> None:
    class KnowsAll(ListSink):
        def file_hash(self, uri: str) -> str | None:
            return known.get(uri)

    path = write(tmp_path / "broken.pdf", "not a PDF at all")
    sink = ListSink()
    known: dict[str, str] = {}
    assert run([path], sink, OPTIONS).outcomes[0].status == "failed"
    known[path.as_posix()] = file_hash(path.read_bytes(), OPTIONS)
    assert run([path], KnowsAll(), OPTIONS).outcomes[0].status == "unchanged"


def test_bad_paths_fail_alone(tmp_path: Path) -> None:
    good = write(tmp_path / "good.txt", "Fine.")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    bad = [
        tmp_path / "missing.txt",
        write(tmp_path / "photo.png", "x"),
        tmp_path / "empty",
        write(tmp_path / "corrupt.docx", "x"),
        tmp_path / "pipe.txt",
        tmp_path / ("n" * 300 + ".txt"),
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")),
    ]
    report = run([*bad, good], ListSink(), OPTIONS)
    assert [o.status for o in report.outcomes] == ["failed"] * len(bad) + ["added"]
    assert report.failed == report.outcomes[:-1]
    reasons = [
        "does not exist; check",
        "unsupported format .png; convert",
        "no supported files in",
        "not a readable .docx",
        "not a regular file; give",
        "cannot be read (File name too long); check",
        "not valid Unicode; rename",
    ]
    for outcome, reason in zip(report.failed, reasons, strict=True):
        assert reason in outcome.message
        assert "\n" not in outcome.message
        outcome.uri.encode("utf-8")
    assert ".txt .md .markdown .html .htm .pdf .docx" in report.failed[2].message


def test_an_unexpected_parser_error_is_one_failed_file(tmp_path: Path) -> None:
    class Counter(ListSink):
        def count_tokens(self, text: str) -> int:
            return 1 // text.count("safe")

    paths = [write(tmp_path / "1.txt", "mined"), write(tmp_path / "2.txt", "safe")]
    report = run(paths, Counter(), OPTIONS)
    assert [o.status for o in report.outcomes] == ["failed", "added"]
    assert "ZeroDivisionError" in report.failed[0].message


def test_store_errors_stop_the_run(tmp_path: Path) -> None:
    class Full(ListSink):
        def add(
            self, uri: str, file_hash: str, document: Document, chunks: Sequence[Chunk]
        ) -> Added:
            raise StoreError("disk full; free some space")

    with pytest.raises(StoreError, match="disk full"):
        run([write(tmp_path / "a.txt", "Text.")], Full(), OPTIONS)


def test_progress_is_told_file_by_file(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.txt", "A."), tmp_path / "missing.txt", tmp_path / "a.txt"]
    seen: list[tuple[FileOutcome, int, int]] = []
    report = run(paths, ListSink(), OPTIONS, lambda *progress: seen.append(progress))
    assert [(done, total) for _, done, total in seen] == [(1, 2), (2, 2)]  # named twice, read once
    assert tuple(outcome for outcome, _, _ in seen) == report.outcomes
