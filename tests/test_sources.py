"""What sources lead to, which of them are gone, and names that a terminal would obey."""

import os
from pathlib import Path

from ingest.sources import Piped, Refused, expand, is_container, is_gone, local_path, printable
from ingest.web import WebOptions


def test_a_link_in_a_circle_and_hidden_entries_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "b" / ".git").mkdir(parents=True)
    for name in ["b/z.txt", "b/.git/x.txt", "a.txt", ".a.txt", "c.exe"]:
        (tmp_path / name).write_text("x")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "self.txt").symlink_to(tmp_path / "self.txt")
    expansion = expand([tmp_path], WebOptions())
    assert expansion.found == [tmp_path / "a.txt", tmp_path / "b" / "z.txt"]
    assert expansion.listed == [tmp_path.as_posix()]


def test_sources_are_told_apart_and_come_once(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")
    piped = Piped("a.txt", b"x")
    url = "https://example.org/page.html"
    sources: list[Path | str | Piped] = [
        url,
        path,
        str(path),
        piped,
        url,
        Path(os.path.relpath(path)),
        Piped("a.txt", b"y"),
    ]
    assert expand(sources, WebOptions()).found == [url, path, piped]


def test_an_empty_folder_is_refused_unless_it_may_be_empty(tmp_path: Path) -> None:
    (refused,) = expand([tmp_path], WebOptions()).found
    assert isinstance(refused, Refused) and "no supported files" in refused.message
    allowed = expand([tmp_path], WebOptions(), may_be_empty=True)
    assert not allowed.found and allowed.listed == [tmp_path.as_posix()]


def test_only_what_certainly_left_the_disk_is_gone(tmp_path: Path) -> None:
    odd = tmp_path / "odd!"
    odd.mkdir()
    (odd / "a.txt").write_text("x")
    (tmp_path / "x.zip").write_bytes(b"x")
    there = tmp_path.as_posix()
    assert not is_gone(f"{there}/odd!/a.txt") and is_gone(f"{there}/odd!/b.txt")
    assert not is_gone(f"{there}/x.zip!/in.zip!/a.txt") and is_gone(f"{there}/y.zip!/a.txt")
    assert not is_gone("https://example.org/a.txt") and not is_gone("stdin:a.txt")
    assert not is_gone(f"{there}/{'n' * 300}.txt")  # no such name can be looked up at all
    assert is_gone(f"{there}/x.zip/a.txt")
    assert local_path(f"{there}/x.zip!/in.zip!/a.txt") == tmp_path / "x.zip"
    assert is_container("stdin:a.ZIP") and not is_container("/a.zip/b.txt")


def test_names_lose_what_a_terminal_would_obey() -> None:
    assert printable("报告 1.pdf 😀") == "报告 1.pdf 😀"
    assert printable("a\nb\x1b[31m\u202e\udcff") == "a b\\x1b[31m\\u202e\\udcff"
