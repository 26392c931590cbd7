"""Zip archives, hostile ones too: what is inside is found, in order, within bounds."""

import stat
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from ingest import archives
from ingest.archives import Budget, BudgetSpent, zip_members
from ingest.errors import SourceError
from ingest.loaders import Entry, load, load_entry, read_entry, unpack


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def unpacked(data: bytes, name: str = "a.zip") -> list[tuple[str, bytes] | str]:
    """Return (uri, content) of the entries, and the messages of the refused ones."""
    return [
        str(found) if isinstance(found, SourceError) else (found.uri, found.data)
        for found in unpack(Entry("/home/" + name, name, data))
    ]


def test_members_come_in_order_and_load(tmp_path: Path) -> None:
    path = tmp_path / "报告.zip"
    path.write_bytes(
        zipped(
            {
                "b/第二.md": "# 标题\n\n正文。".encode(),
                "a.txt": b"First.",
                "photo.xyz": b"skipped",
                "__MACOSX/._a.txt": b"skipped",
                ".hidden/x.txt": b"skipped",
                "README": b"Read me.",
            }
        )
    )
    entries = [entry for entry in unpack(read_entry(path)) if isinstance(entry, Entry)]
    uri = path.as_posix()
    assert [entry.uri for entry in entries] == [
        f"{uri}!/b/第二.md",
        f"{uri}!/a.txt",
        f"{uri}!/README",
    ]
    documents = [load_entry(entry) for entry in entries]
    assert [d.title for d in documents] == ["标题", "a", "README"]
    assert documents[1].text == "First."
    with pytest.raises(SourceError, match="an archive, not a document; ingest it as a whole"):
        load(path)


def test_a_plain_file_is_its_own_entry() -> None:
    entry = Entry("/a.txt", "a.txt", b"text")
    assert list(unpack(entry)) == [entry]


def test_nested_archives_up_to_two_levels() -> None:
    data = b"Deep."
    for level in range(3):
        data = zipped({("a.txt" if level == 0 else f"{level}.zip"): data})
    assert unpacked(data) == [("/home/a.zip!/2.zip!/1.zip!/a.txt", b"Deep.")]
    (message,) = unpacked(zipped({"3.zip": data}))
    assert "3.zip!/2.zip!/1.zip: nested too deeply; unpack it" in message


def test_names_that_lead_out_are_refused_one_by_one() -> None:
    bad = ["/etc/a.txt", "../b.txt", "x/../../c.txt", "C:\\d.txt", "..\\e.txt"]
    found = unpacked(zipped({**dict.fromkeys(bad, b"x"), "good.txt": b"Good."}))
    assert found.pop() == ("/home/a.zip!/good.txt", b"Good.")
    assert len(found) == len(bad)
    assert all("leads out of the archive; pack it" in str(message) for message in found)


def test_symbolic_links_are_refused() -> None:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("a.txt", "Text.")
    message, good = unpacked(buffer.getvalue())
    assert "a symbolic link; pack the file itself" in message
    assert good == ("/home/a.zip!/a.txt", b"Text.")


def test_encrypted_and_damaged_members_leave_the_others() -> None:
    data = bytearray(zipped({"a.txt": b"aaaa", "b.txt": b"bbbb", "c.txt": b"cccc"}, 0))
    data[data.index(b"bbbb")] ^= 1  # a wrong checksum
    central = data.index(b"PK\x01\x02")
    data[central + 8] |= 1  # the flag of encryption
    data[6] |= 1
    locked, damaged, good = unpacked(bytes(data))
    assert "a.txt: protected by a password; save it without one" in locked
    assert "b.txt: cannot be unpacked (BadZipFile); save it again" in damaged
    assert good == ("/home/a.zip!/c.txt", b"cccc")


def test_a_bomb_is_stopped_early() -> None:
    bomb = zipped({"zeros.txt": bytes(40_000_000), "a.txt": b"Text."})
    assert len(bomb) < 100_000
    message, good = unpacked(bomb)
    assert "unpacks to over 200 times its size, likely a zip bomb" in message
    assert good == ("/home/a.zip!/a.txt", b"Text.")


def test_members_that_share_bytes_are_refused() -> None:
    """Two directory entries for the same bytes, and one whose content spans its neighbour."""
    data = bytearray(zipped({"a.txt": b"a" * 500, "b.txt": b"b" * 500}, 0))
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    same, spanning = bytearray(data), bytearray(data)
    same[second + 42 : second + 46] = bytes(4)  # where the second begins
    first = data.index(b"PK\x01\x02")
    spanning[first + 20 : first + 28] = (600).to_bytes(4, "little") * 2
    for bad in (same, spanning):
        assert unpacked(bytes(bad)) == [
            "/home/a.zip: its members share bytes, likely a zip bomb; save it again"
        ]
    assert unpacked(bytes(data)) == [
        ("/home/a.zip!/a.txt", b"a" * 500),
        ("/home/a.zip!/b.txt", b"b" * 500),
    ]


def test_bounds_hold_over_all_levels() -> None:
    inner = zipped({f"{n}.txt": b"12345" for n in range(4)}, 0)
    for budget, kept in [(Budget(members=3), 3), (Budget(size=12), 2)]:
        members = zip_members("a.zip", inner, lambda _: True, budget)
        assert [next(members) for _ in range(kept)] == [(f"{n}.txt", b"12345") for n in range(kept)]
        with pytest.raises(BudgetSpent, match="ingest the folder"):
            next(members)
    many = zipped({f"{n}.txt": b"x" for n in range(archives.MAX_MEMBERS + 5)}, 0)
    found_all = unpacked(zipped({"many.zip": many}))
    assert len(found_all) == archives.MAX_MEMBERS  # the archive itself is a member, then the error
    assert str(found_all[-1]) == (
        "/home/a.zip: holds too many files; unpack it and ingest the folder"
    )


@pytest.mark.parametrize("encoding", ["gbk", "big5", "cp932", "cp437", "utf-8"])
def test_names_in_old_encodings(encoding: str) -> None:
    name = {"cp932": "レポート.txt", "cp437": "Müller.txt", "big5": "報告書.txt"}.get(
        encoding, "年度报告.txt"
    )
    raw = name.encode(encoding)
    placeholder = "x" * len(raw)
    data = zipped({placeholder: b"Text."}).replace(placeholder.encode(), raw)
    assert unpacked(data) == [(f"/home/a.zip!/{name}", b"Text.")]


def test_equal_names_stay_apart() -> None:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/x.txt", "one")
        archive.writestr("a/x.txt", "two")
    assert unpacked(buffer.getvalue()) == [
        ("/home/a.zip!/a/x.txt", b"one"),
        ("/home/a.zip!/a/x (2).txt", b"two"),
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a readable .zip"),
        (b"PK\x03\x04 cut off", "not a readable .zip"),
        (zipped({"a.txt": b"Text." * 100})[:-30], "not a readable .zip"),
        (zipped({"a.xyz": b"x"}), "holds no supported files"),
        (zipped({}), "holds no supported files"),
    ],
    ids=["empty", "a-head-alone", "cut-off", "a-foreign-kind", "nothing-inside"],
)
def test_archives_that_cannot_be_read(data: bytes, reason: str) -> None:
    (message,) = unpacked(data)
    assert reason in message
