"""The pipeline over real folders: what is found, skipped, updated, and survives."""

import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from ingest.chunking import ChunkingOptions
from ingest.errors import SourceError, StoreError
from ingest.loaders import MAX_BYTES
from ingest.pipeline import (
    FileOutcome,
    Item,
    Kept,
    ListSink,
    PipelineOptions,
    Report,
    recipe_of,
    run,
)
from ingest.sources import Piped
from ingest.web import WebOptions
from ingest.workers import ParserOptions, hash_of

OPTIONS = ChunkingOptions(max_tokens=50)
PRUNE = PipelineOptions(prune=True)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def statuses(report: Report) -> list[tuple[str, str]]:
    return [(Path(outcome.uri).name, outcome.status) for outcome in report.outcomes]


def test_a_folder_is_searched_in_order_and_the_rest_skipped(tmp_path: Path) -> None:
    for name in ["b.md", "a/z.txt", "a/报告.txt", ".hidden.txt", ".git/x.txt", "tool.exe"]:
        write(tmp_path / "docs" / name, f"Text of {name}.")
    outside = write(tmp_path / "outside" / "secret.txt", "Outside.")
    (tmp_path / "docs" / "link.txt").symlink_to(outside)
    (tmp_path / "docs" / "away").symlink_to(outside.parent)
    (tmp_path / "docs" / "circle").symlink_to(tmp_path / "docs")
    sink = ListSink()
    report = run([tmp_path / "docs"], sink, OPTIONS)
    assert statuses(report) == [("b.md", "added"), ("z.txt", "added"), ("报告.txt", "added")]
    assert {status: count for status, count in report.counts.items() if count} == {"added": 3}
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
    known[path.as_posix()] = hash_of(path.read_bytes(), recipe_of(OPTIONS))
    assert run([path], KnowsAll(), OPTIONS).outcomes[0].status == "unchanged"


def test_bad_paths_fail_alone(tmp_path: Path) -> None:
    good = write(tmp_path / "good.txt", "Fine.")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    bad = [
        tmp_path / "missing.txt",
        write(tmp_path / "tool.exe", "x"),
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
        "unsupported format .exe; convert",
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
    assert ".docx" in report.failed[2].message.split("supported: ")[1]


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
        def add_all(self, items: Sequence[Item]) -> Sequence[Kept]:
            raise StoreError("disk full; free some space")

    with pytest.raises(StoreError, match="disk full"):
        run([write(tmp_path / "a.txt", "Text.")], Full(), OPTIONS)


def test_an_item_that_the_sink_refuses_fails_alone(tmp_path: Path) -> None:
    class Refuses(ListSink):
        def add_all(self, items: Sequence[Item]) -> Sequence[Kept]:
            for item in items:
                if "bad" in item.document.text:
                    raise SourceError(f"{item.uri}: not valid Unicode; save it as UTF-8")
            return super().add_all(items)

    for name, text in {"1": "First.", "2": "A bad one.", "3": "Last."}.items():
        write(tmp_path / f"{name}.txt", text)
    sink = Refuses()
    report = run([tmp_path], sink, OPTIONS)
    assert statuses(report) == [("1.txt", "added"), ("2.txt", "failed"), ("3.txt", "added")]
    assert report.failed[0].message.endswith("2.txt: not valid Unicode; save it as UTF-8")
    assert len(sink.uris()) == 2


def test_progress_is_told_file_by_file(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.txt", "A."), tmp_path / "missing.txt", tmp_path / "a.txt"]
    seen: list[tuple[FileOutcome, int, int]] = []
    report = run(paths, ListSink(), OPTIONS, on_file=lambda *progress: seen.append(progress))
    assert [(done, total) for _, done, total in seen] == [(1, 2), (2, 2)]  # named twice, read once
    assert {outcome for outcome, _, _ in seen} == set(report.outcomes)
    assert statuses(report) == [("a.txt", "added"), ("missing.txt", "failed")]


class Recording(ListSink):
    """Remembers how many documents came with each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def add_all(self, items: Sequence[Item]) -> Sequence[Kept]:
        self.batches.append(len(items))
        return super().add_all(items)


def test_chunks_gather_to_batches_and_are_told_of_when_durable(tmp_path: Path) -> None:
    for number in range(10):
        write(tmp_path / f"{number}.txt", f"Text {number}.")
    sink, told = Recording(), []
    run(
        [tmp_path],
        sink,
        OPTIONS,
        pipeline=PipelineOptions(batch_chunks=4),
        on_file=lambda outcome, done, total: told.append(
            (done, total, len(sink.uris()), sink.file_hash(outcome.uri) is not None)
        ),
    )
    assert sink.batches == [4, 4, 2]
    assert told == [(n, 10, [4, 8, 10][(n - 1) // 4], True) for n in range(1, 11)]


def test_a_batch_that_waits_for_a_slow_file_is_handed_over(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "Ready at once.")
    write(tmp_path / "b.md", "[" * 5_000_000)  # takes its parser far longer than it has
    order: list[str] = []
    pipeline = PipelineOptions(
        parsers=ParserOptions(workers=1, file_seconds=2), batch_seconds=0.1, batch_chunks=99
    )
    report = run(
        [tmp_path],
        ListSink(),
        OPTIONS,
        pipeline=pipeline,
        on_file=lambda o, *_: order.append(o.status),
    )
    assert order == ["added", "failed"]
    assert "took longer than 2 seconds; split it" in report.failed[0].message


def test_the_first_of_equal_files_holds_the_text_however_slow_its_parser(tmp_path: Path) -> None:
    write(tmp_path / "a.html", "<p>The very same text.</p>")  # goes to a worker
    write(tmp_path / "b.txt", "The very same text.")  # does not
    report = run([tmp_path], ListSink(), OPTIONS)
    assert statuses(report) == [("a.html", "added"), ("b.txt", "duplicate")]
    assert report.outcomes[1].message == f"says the same as {(tmp_path / 'a.html').as_posix()}"


def test_likeness_is_told_in_percent(tmp_path: Path) -> None:
    class Alike(ListSink):
        def add_all(self, items: Sequence[Item]) -> Sequence[Kept]:
            return [Kept("duplicate", similar_to="/notes/first.txt", similarity=0.973)]

    report = run([write(tmp_path / "a.txt", "Text.")], Alike(), OPTIONS)
    assert report.outcomes[0].message == "97% like /notes/first.txt"


def test_a_moved_file_is_recognised_and_its_old_place_forgotten(tmp_path: Path) -> None:
    old = write(tmp_path / "docs" / "old.txt", "A text that moves.")
    sink = ListSink()
    run([tmp_path], sink, OPTIONS)
    new = tmp_path / "new.txt"
    old.rename(new)
    write(tmp_path / "z.txt", "A text that moves.")  # a copy beside it moved nothing
    report = run([tmp_path], sink, OPTIONS)
    assert statuses(report) == [("new.txt", "moved"), ("z.txt", "duplicate")]
    assert report.outcomes[0].chunks == 1 and report.outcomes[0].embedded == 0
    assert sink.uris() == [new.as_posix(), (tmp_path / "z.txt").as_posix()]


def test_prune_forgets_what_is_gone_below_the_roots_and_nothing_else(tmp_path: Path) -> None:
    names = ["in/gone.txt", "in/sub/gone.txt", "in/broken.docx", "in/kept.txt", "inside.txt"]
    for name in names:
        write(tmp_path / name, f"Text of {name}.")
    sink = ListSink()
    run([tmp_path / "in", tmp_path / "inside.txt"], sink, OPTIONS)
    run([Piped("note.txt", b"Piped."), write(tmp_path / "in" / ".hidden.txt", "H.")], sink, OPTIONS)
    for name in ["in/gone.txt", "in/sub/gone.txt", "inside.txt"]:
        (tmp_path / name).unlink()
    (tmp_path / "in" / "kept.txt").write_bytes(b"\0" * 9)  # no longer holds a text
    assert run([tmp_path / "in"], sink, OPTIONS).counts["removed"] == 0
    report = run([tmp_path / "in"], sink, OPTIONS, pipeline=PRUNE)
    assert [Path(o.uri).relative_to(tmp_path).as_posix() for o in report.outcomes[-2:]] == names[:2]
    assert report.counts["removed"] == 2 and report.counts["failed"] == 2
    left = {uri.removeprefix(f"{tmp_path.as_posix()}/") for uri in sink.uris()}
    assert left == {"in/kept.txt", "inside.txt", "stdin:note.txt", "in/.hidden.txt"}


def test_what_stood_in_an_emptied_file_is_forgotten(tmp_path: Path) -> None:
    path, sink = write(tmp_path / "a.txt", "An old secret."), ListSink()
    archive = pack(tmp_path / "b.zip", {"c.txt": b"Another one.", "d.txt": b"This stays."})
    run([tmp_path], sink, OPTIONS)
    path.write_bytes(b"\xef\xbb\xbf")  # a mark is all that an editor left
    pack(archive, {"c.txt": b" \n", "d.txt": b"This stays."})
    report = run([tmp_path], sink, OPTIONS)
    assert [outcome.status for outcome in report.outcomes] == ["removed", "removed", "unchanged"]
    assert report.outcomes[0].message == "holds no text any more"
    assert sink.uris() == [f"{archive.as_posix()}!/d.txt"]
    report = run([path], sink, OPTIONS)  # now it is as if it had always been empty
    assert report.counts["failed"] == 1 and "holds no text; check" in report.failed[0].message


def test_an_emptied_folder_is_pruned_and_a_vanished_one_is_not(tmp_path: Path) -> None:
    path, sink = write(tmp_path / "in" / "a.txt", "A."), ListSink()
    run([path.parent], sink, OPTIONS)
    path.unlink()
    path.parent.rmdir()
    assert run([path.parent], sink, OPTIONS, pipeline=PRUNE).counts["removed"] == 0
    path.parent.mkdir()
    report = run([path.parent], sink, OPTIONS, pipeline=PRUNE)
    assert [outcome.status for outcome in report.outcomes] == ["removed"] and not sink.uris()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_nothing_is_pruned_below_a_root_with_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    path, closed, sink = write(tmp_path / "a.txt", "A."), tmp_path / "closed", ListSink()
    write(closed / "b.txt", "B.")
    run([tmp_path], sink, OPTIONS)
    path.unlink()
    closed.chmod(0)
    report = run([tmp_path], sink, OPTIONS, pipeline=PRUNE)
    closed.chmod(0o700)
    assert [outcome.status for outcome in report.outcomes] == ["failed"] and len(sink.uris()) == 2


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_members_of_archives_have_their_own_outcomes(tmp_path: Path) -> None:
    members = {"a.txt": b"One.", "b.docx": b"no", "c/d.html": b"<p>Two.</p>", "e.bin": b"x"}
    archive, sink = pack(tmp_path / "x.zip", members), ListSink()
    seen: list[tuple[int, int]] = []
    report = run([tmp_path], sink, OPTIONS, on_file=lambda _, *progress: seen.append(progress))
    assert statuses(report) == [("a.txt", "added"), ("b.docx", "failed"), ("d.html", "added")]
    assert report.failed[0].uri == f"{archive.as_posix()}!/b.docx"
    assert seen[-1] == (3, 3)
    again = run([tmp_path], sink, OPTIONS)
    assert [o.status for o in again.outcomes] == ["unchanged", "failed", "unchanged"]
    pack(archive, {"a.txt": b"Three.", "b.docx": b"no"})
    report = run([archive], sink, OPTIONS, pipeline=PRUNE)
    assert statuses(report) == [("a.txt", "updated"), ("b.docx", "failed"), ("d.html", "removed")]
    archive.write_bytes(b"damaged")
    report = run([archive], sink, OPTIONS, pipeline=PRUNE)
    assert report.counts["removed"] == 0 and len(sink.uris()) == 1
    archive.unlink()
    run([tmp_path], sink, OPTIONS, pipeline=PRUNE)
    assert not sink.uris()


def test_piped_bytes_are_kept_under_their_name(tmp_path: Path) -> None:
    sink = ListSink()
    report = run([Piped("page.html", b"<p>Hello.</p>")], sink, OPTIONS)
    assert [(o.uri, o.status) for o in report.outcomes] == [("stdin:page.html", "added")]
    again = run([Piped("page.html", b"<p>Hello.</p>"), Piped("x.txt", b"")], sink, OPTIONS)
    assert [o.status for o in again.outcomes] == ["unchanged", "failed"]
    large = run([Piped("large.txt", b"a" * (MAX_BYTES + 1))], sink, OPTIONS).failed[0]
    assert large.message == "stdin:large.txt: larger than 200 MB; split it into smaller files"


def test_web_pages_are_fetched_kept_and_known_again(tmp_path: Path) -> None:
    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/page.html"
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write("<p>网页上的一段话。</p>".encode() if known else b"")

        def log_message(self, format: str, *values: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    urls, sink, web = (
        [f"{base}/page.html", f"{base}/none.html"],
        ListSink(),
        WebOptions(allow_private=True),
    )
    try:
        report = run(urls, sink, OPTIONS, web=web)
        assert [o.status for o in report.outcomes] == ["added", "failed"]
        assert sink.documents[urls[0]][0].text == "网页上的一段话。"
        assert run(urls[:1], sink, OPTIONS, web=web, pipeline=PRUNE).counts["unchanged"] == 1
        assert "private" in run(urls[:1], sink, OPTIONS).failed[0].message.lower()
    finally:
        server.shutdown()
        server.server_close()


def test_messages_are_one_printable_line(tmp_path: Path) -> None:
    path = write(tmp_path / "evil\n\x1b[31m\u202ename.docx", "x")
    outcome = run([path], ListSink(), OPTIONS).outcomes[0]
    assert outcome.message.isprintable() and outcome.uri.isprintable()


_INTERRUPTED = """
import sys, signal
from pathlib import Path
from ingest.chunking import ChunkingOptions
from ingest.pipeline import ListSink, PipelineOptions, run
if sys.argv[2] == "exit":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
run([Path(sys.argv[1])], ListSink(), ChunkingOptions(), pipeline=PipelineOptions(batch_chunks=1),
    on_file=lambda *_: print("kept", flush=True))
"""


@pytest.mark.parametrize(
    ("sent", "handling"),
    [
        (signal.SIGINT, "none"),
        (signal.SIGTERM, "exit"),
        (signal.SIGTERM, "none"),
        (signal.SIGKILL, "none"),
    ],
)
def test_no_worker_outlives_a_run_that_is_ended(
    tmp_path: Path, sent: signal.Signals, handling: str
) -> None:
    import psutil

    write(tmp_path / "a.html", "<p>Quick.</p>")
    write(tmp_path / "b.html", "<p>Slow.</p>" * 3_000_000)
    process = subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED, str(tmp_path), handling],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None and process.stdout.readline() == b"kept\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(sent)
    assert process.wait(timeout=30) != 0
    process.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
