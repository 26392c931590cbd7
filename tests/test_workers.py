"""Parsers in other processes: they hang, die and swell, and one file fails each time."""

import os
import signal
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ingest.workers import Job, ParserOptions, Parsers, Portion, hash_file, hash_of, parse

HANGS = "[" * 5_000_000  # Markdown that takes its parser many minutes


@pytest.fixture
def parsers() -> Iterator[Parsers]:
    with Parsers(ParserOptions(workers=1, file_seconds=60)) as made:
        yield made


def job(path: Path, content: str) -> Job:
    path.write_text(content, encoding="utf-8")
    return Job(path, path.as_posix(), "recipe")


def finish(parsers: Parsers, asked: Job) -> list[Portion]:
    portions = []
    rest: Job | None = asked
    while rest is not None:
        portions.append(parsers.finish(parsers.start(rest)))
        rest = portions[-1].rest
    return portions


def texts(portions: list[Portion]) -> list[str]:
    parsed = [parsed for portion in portions for parsed in portion.parsed]
    return [one.document.text if one.document else one.message for one in parsed]


def test_a_document_comes_back_with_the_hash_of_what_was_read(
    parsers: Parsers, tmp_path: Path
) -> None:
    asked = job(tmp_path / "a.html", "<h1>标题</h1><p>Text.</p>")
    ((parsed,),) = [portion.parsed for portion in finish(parsers, asked)]
    assert parsed.document is not None and parsed.document.text == "标题\n\nText."
    assert parsed.file_hash == hash_file(tmp_path / "a.html", "recipe")
    assert parsed.file_hash == hash_of((tmp_path / "a.html").read_bytes(), "recipe")
    assert parsed.file_hash != hash_file(tmp_path / "a.html", "another recipe")


def test_small_plain_texts_need_no_process(tmp_path: Path) -> None:
    with Parsers(ParserOptions()) as parsers:
        assert texts(finish(parsers, job(tmp_path / "a.md", "# Here"))) == ["# Here"]
        assert parsers._pool is None


def test_a_parser_that_hangs_is_replaced(tmp_path: Path) -> None:
    with Parsers(ParserOptions(workers=1, file_seconds=1)) as parsers:
        works = [
            parsers.start(job(tmp_path / "a.md", HANGS)),
            parsers.start(job(tmp_path / "b.html", "<p>Fine.")),
        ]
        found = [text for work in works for text in texts([parsers.finish(work)])]
    path = (tmp_path / "a.md").as_posix()
    assert found == [f"{path}: took longer than 1 seconds; split it", "Fine."]


def kill_a_busy_worker() -> None:
    """Wait until a child of a child, a worker, works hard, and kill it."""
    for _ in range(600):
        for child in psutil.Process().children(recursive=True):
            try:
                if child.cpu_percent(0.05) > 20 and time.time() - child.create_time() > 0.5:
                    child.send_signal(signal.SIGKILL)
                    return
            except psutil.NoSuchProcess:
                continue
    raise AssertionError("no worker was busy")


def test_a_parser_that_dies_is_tried_once_more(parsers: Parsers, tmp_path: Path) -> None:
    work = parsers.start(job(tmp_path / "a.md", HANGS))
    kill_a_busy_worker()
    portion = parsers.finish(work)
    assert not portion.parsed and portion.rest is not None
    work = parsers.start(portion.rest)
    kill_a_busy_worker()
    assert "crashed its parser; save it in another format" in texts([parsers.finish(work)])[0]
    assert texts(finish(parsers, job(tmp_path / "b.html", "<p>Fine."))) == ["Fine."]


def test_a_member_that_hangs_costs_no_other_member(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {"a.txt": "One.", "b.md": HANGS, "c.txt": "Two."}.items():
            archive.writestr(name, text)
    with Parsers(ParserOptions(workers=1, file_seconds=1)) as parsers:
        found = texts(finish(parsers, Job(path, path.as_posix(), "recipe")))
    which = f"{path.as_posix()}: member 2 took longer than 1 seconds; split it"
    assert found == ["One.", which, "Two."]


def test_memory_is_limited(tmp_path: Path) -> None:
    with Parsers(ParserOptions(workers=1, memory_bytes=400 << 20)) as parsers:
        asked = job(tmp_path / "a.txt", "many words " * 15_000_000)
        (message,) = texts(finish(parsers, asked))
        assert message.startswith(asked.uri) and ("memory" in message or "crashed" in message)
        assert texts(finish(parsers, job(tmp_path / "b.html", "<p>Fine."))) == ["Fine."]


def test_unchanged_members_are_not_parsed_again(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("broken.docx", "x")
        archive.writestr("b.txt", "Fine.")
    known = {f"{path.as_posix()}!/broken.docx": hash_of(b"x", "recipe")}
    parsed = parse(Job(path, path.as_posix(), "recipe", known=known)).parsed
    assert [bool(one.document) for one in parsed] == [False, True]
    assert [one.message for one in parsed] == ["", ""]


def test_workers_are_gone_after_the_run(tmp_path: Path) -> None:
    with Parsers(ParserOptions(workers=2)) as parsers:
        parsers.start(job(tmp_path / "a.md", HANGS))
        finish(parsers, job(tmp_path / "b.html", "<p>Fine."))
        pool = parsers._pool
        assert pool is not None
        workers = list(pool._pool_manager.worker_manager.workers)
        assert workers
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)
