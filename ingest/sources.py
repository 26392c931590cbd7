"""What to ingest: files, folders, web addresses and piped bytes become one list of sources.

    expand([Path("handbook"), "https://example.org/sitemap.xml", Piped("note.md", data)], web)

Folders are walked in sorted order through all their levels. Inside them, hidden entries, symbolic
links and unsupported formats are skipped: a link that stays inside leads to files found anyway,
any other one leaves the folder or goes in circles. Knows nothing of parsing, chunks or sinks.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ingest.errors import SourceError
from ingest.loaders import CONTAINERS, SUPPORTED_SUFFIXES, is_supported, suffix_of
from ingest.sitemaps import pages
from ingest.web import WebOptions, is_url

MEMBER = "!/"  # stands in a uri between a container and what is inside it


@dataclass(frozen=True, slots=True)
class Piped:
    """Bytes that come without a file, from standard input say; the name's suffix is the format."""

    name: str
    data: bytes

    @property
    def uri(self) -> str:
        """The name under which the text is kept and replaced."""
        return f"stdin:{self.name}"


@dataclass(frozen=True, slots=True)
class Refused:
    """A source that leads to nothing, and why."""

    uri: str
    message: str


Source = Path | str | Piped  # a str is a web address, or else a path
Found = Path | str | Piped | Refused  # a str is the address of one page


@dataclass(frozen=True)
class Expansion:
    """What sources lead to, in order and each once."""

    found: list[Found] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)  # uris of the folders listed without an error


def expand(sources: Sequence[Source], web: WebOptions, *, may_be_empty: bool = False) -> Expansion:
    """Find every file and page that the sources lead to.

    Args:
        sources: Files, folders, web addresses (those of sitemaps stand for their pages), bytes.
        web: How to fetch sitemaps.
        may_be_empty: A folder without supported files is no failure.
    """
    expansion, seen = Expansion(), set[str]()
    for source in sources:
        for found in _expand(source, web, may_be_empty, expansion.listed):
            key = found if isinstance(found, str) else _key(found)
            if key not in seen:
                seen.add(key)
                expansion.found.append(found)
    return expansion


def is_container(uri: str) -> bool:
    """Tell whether several documents may stand in this one source, by the suffix of its name."""
    return suffix_of(uri) in CONTAINERS


def local_path(uri: str) -> Path | None:
    """Return the file that a uri names or whose member it names, None if it names none."""
    if is_url(uri) or not os.path.isabs(uri):
        return None
    path = uri
    while MEMBER in path and not os.path.lexists(path):
        path = path.rpartition(MEMBER)[0]
    return Path(path)


def is_gone(uri: str) -> bool:
    """Whether a uri names a local file, or a member of one, that certainly no longer exists."""
    path = local_path(uri)
    if path is None:
        return False
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # behind a folder that may not be entered, say
        return False
    return False


def printable(text: str) -> str:
    """Return the text as one line without control, format or lone surrogate characters.

    Names of files may hold any of these, and a terminal obeys some of them.
    """
    line = " ".join(text.split())
    if line.isprintable():
        return line
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in line
    )


def _key(found: Path | Piped | Refused) -> str:
    return os.path.abspath(found) if isinstance(found, Path) else found.uri


def _expand(
    source: Source, web: WebOptions, may_be_empty: bool, listed: list[str]
) -> Iterator[Found]:
    if isinstance(source, Piped):
        yield source
    elif isinstance(source, str) and is_url(source):
        yield from _pages_of(source, web)
    elif os.path.isdir(source):
        yield from _files_in(Path(source), may_be_empty, listed)
    else:
        yield Path(source)


def _pages_of(url: str, web: WebOptions) -> Iterator[Found]:
    try:
        for page in pages(url, web):
            yield Refused(url, str(page)) if isinstance(page, SourceError) else page
    except SourceError as error:
        yield Refused(url, str(error))


def _files_in(folder: Path, may_be_empty: bool, listed: list[str]) -> Iterator[Found]:
    unreadable: list[OSError] = []
    found_any = False
    for root, folders, names in os.walk(folder, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if is_supported(name) and not name.startswith(".") and not path.is_symlink():
                found_any = True
                yield path
    for error in unreadable:
        message = f"{error.filename}: cannot be listed ({error.strerror}); grant read permission"
        yield Refused(os.path.abspath(error.filename), message)
    if not unreadable:
        listed.append(Path(os.path.abspath(folder)).as_posix())
        if not (found_any or may_be_empty):
            suffixes = " ".join(SUPPORTED_SUFFIXES)
            message = f"no supported files in {folder}; supported: {suffixes}"
            yield Refused(os.path.abspath(folder), message)
