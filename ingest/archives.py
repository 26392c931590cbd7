"""Zip archives: their members one by one, in memory and within bounds.

Nothing is ever written to disk, so a hostile name can harm nothing; it is refused all the same,
because a citation would show it. A bad member is yielded as a `SourceError` and the others go on.
Knows nothing of what is inside the members: the caller says which names it wants.
"""

import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import PurePosixPath

from ingest.encodings import decode_names
from ingest.errors import SourceError
from ingest.parsed import REMOVED

Member = tuple[str, bytes]  # name inside the container, content
Wanted = Callable[[str], bool]

MAX_MEMBERS = 10_000  # in one file, all its levels together
MAX_UNPACKED_BYTES = 1024 * 1024 * 1024  # out of one file, all its levels together
MAX_MEMBER_BYTES = 200 * 1024 * 1024
_MAX_RATIO = 200  # unpacked to packed; text seldom reaches 20
_RATIO_COUNTS_FROM = 10 * 1024 * 1024  # bytes; small repetitive files are harmless
_READ_SIZE = 1024 * 1024
_CENTRAL_HEADER = b"PK\x01\x02"
_LOCAL_HEADER_BYTES = 30  # at least, before the content of each member
_MAX_HEADERS = 200_000  # with those of archives stored inside; bounds what zipfile keeps in memory
_UTF8_NAME = 0x800  # bit of `flag_bits`
_ENCRYPTED = 0x1
_DRIVE = re.compile(r"[A-Za-z]:")


class BudgetSpent(Exception):
    """The container as a whole unpacks to more than is allowed."""


class Budget:
    """What may still be unpacked out of one file, all its levels together."""

    def __init__(self, members: int = MAX_MEMBERS, size: int = MAX_UNPACKED_BYTES) -> None:
        """Start with `members` entries and `size` bytes."""
        self._members = members
        self._size = size

    def take_member(self) -> None:
        """Count one member.

        Raises:
            BudgetSpent: It is one too many.
        """
        self._members -= 1
        if self._members < 0:
            raise BudgetSpent("holds too many files; unpack it and ingest the folder")

    def take_bytes(self, count: int) -> None:
        """Count unpacked bytes.

        Raises:
            BudgetSpent: They are too many.
        """
        self._size -= count
        if self._size < 0:
            raise BudgetSpent("unpacks to too much; unpack it and ingest the folder")


def zip_members(
    uri: str, data: bytes, wanted: Wanted, budget: Budget
) -> Iterator[Member | SourceError]:
    """Yield the wanted members of a zip archive in its order, and an error for each bad one.

    Folders, hidden entries and the resource forks of macOS are skipped.

    Raises:
        SourceError: The archive as a whole is unreadable.
        BudgetSpent: Too many members or too many bytes.
    """
    with open_zip(uri, data) as archive:
        for info, name in _named(archive.infolist()):
            if info.is_dir():
                continue
            budget.take_member()
            parts = PurePosixPath(name).parts
            if "__MACOSX" in parts or any(p.startswith(".") and p != ".." for p in parts):
                continue
            try:
                _check(uri, name, info)
                if wanted(name):
                    yield name, read_member(f"{uri}!/{name}", archive, info, budget)
            except SourceError as error:
                yield error


def open_zip(uri: str, data: bytes) -> zipfile.ZipFile:
    """Open a zip archive, or a document that is one, in memory.

    Raises:
        SourceError: It is damaged, no zip archive, or a bomb of members.
    """
    if data.count(_CENTRAL_HEADER) > _MAX_HEADERS:  # before the directory itself fills the memory
        raise SourceError(f"{uri}: holds too many files; split it into smaller ones")
    try:
        archive = zipfile.ZipFile(BytesIO(data))
    except Exception as error:  # zipfile lets more than BadZipFile out on hostile files
        what = f"{PurePosixPath(uri).suffix or 'zip archive'} ({type(error).__name__})"
        raise SourceError(f"{uri}: not a readable {what}; save it again") from None
    if _overlap(archive.infolist()):
        raise SourceError(f"{uri}: its members share bytes, likely a zip bomb; save it again")
    return archive


def pieces(
    uri: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int
) -> Iterator[bytes]:
    """Yield a member's content, counting while reading: what its header says may be a lie.

    Raises:
        SourceError: The member is encrypted, damaged, or larger than `limit` bytes.
    """
    if info.flag_bits & _ENCRYPTED:
        raise SourceError(f"{uri}: protected by a password; save it without one")
    size = 0
    try:
        with archive.open(info) as stream:
            while max(size, info.file_size) <= limit and (piece := stream.read(_READ_SIZE)):
                size += len(piece)
                yield piece
    except Exception as error:  # each compression method has its own errors for damaged data
        reason = type(error).__name__
        raise SourceError(f"{uri}: cannot be unpacked ({reason}); save it again") from None
    if max(size, info.file_size) > limit:
        raise SourceError(f"{uri}: unpacks to over {limit >> 20} MB; split it into smaller files")


def read_member(uri: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget) -> bytes:
    """Return a member's content.

    Raises:
        SourceError: The member is encrypted, damaged, too large or a bomb.
        BudgetSpent: The whole archive is too large.
    """
    suspect = max(_RATIO_COUNTS_FROM, _MAX_RATIO * info.compress_size)
    parts, size = [], 0
    for piece in pieces(uri, archive, info, MAX_MEMBER_BYTES):
        budget.take_bytes(len(piece))
        size += len(piece)
        if size > suspect:
            raise SourceError(
                f"{uri}: unpacks to over {_MAX_RATIO} times its size, likely a zip bomb; "
                "unpack it yourself if you trust it"
            )
        parts.append(piece)
    return b"".join(parts)


def unique(name: str, taken: set[str]) -> str:
    """Return the name, or "name (2).txt" where it is taken, and take it."""
    path, number, free = PurePosixPath(name), 1, name
    while free in taken:
        number += 1
        free = str(path.with_name(f"{path.stem} ({number}){path.suffix}"))
    taken.add(free)
    return free


def _overlap(infos: list[zipfile.ZipInfo]) -> bool:
    """Whether members share bytes, so that a small archive holds the same giant many times."""
    spans = sorted(
        (info.header_offset, info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size)
        for info in infos
    )
    return any(end > start for (_, end), (start, _) in pairwise(spans))


def _named(infos: list[zipfile.ZipInfo]) -> Iterator[tuple[zipfile.ZipInfo, str]]:
    """Pair the members with their names, decoded and unique; backslashes become slashes."""
    unflagged = [info.orig_filename for info in infos if not info.flag_bits & _UTF8_NAME]
    decoded = iter(decode_names([name.encode("cp437") for name in unflagged]))
    taken: set[str] = set()
    for info in infos:
        name = info.orig_filename if info.flag_bits & _UTF8_NAME else next(decoded)
        name = name.replace("\\", "/")
        yield info, name if info.is_dir() or not name.strip("/.") else unique(name, taken)


def _check(uri: str, name: str, info: zipfile.ZipInfo) -> None:
    shown = f"{uri}!/{name.encode('utf-8', 'backslashreplace').decode()}"
    if REMOVED.search(name):
        raise SourceError(f"{shown!r}: the name is not valid Unicode; rename it and pack it again")
    if name.startswith("/") or _DRIVE.match(name) or ".." in PurePosixPath(name).parts:
        raise SourceError(f"{shown}: the name leads out of the archive; pack it with plain names")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise SourceError(f"{shown}: a symbolic link; pack the file itself")
