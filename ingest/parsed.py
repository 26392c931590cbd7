"""What a format's parser gives: the text of a file, its title, and where things stand in it.

A parser is a function `(uri, data) -> Parsed` that raises `SourceError` for what it cannot read
faithfully. The text is built block by block with `TextBuilder`, which also keeps the headings and
the locations (pages, slides, sheets, cells) that citations show. Knows nothing of any format.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ingest.documents import Section
from ingest.languages import IDEOGRAPHS


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a format's parser finds in the bytes of a file."""

    text: str
    title: str = ""  # "" where the content names none
    sections: tuple[Section, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)


Parser = Callable[[str, bytes], Parsed]  # of uri and content; the uri is for messages only


REMOVED = re.compile("[\0\ud800-\udfff]")  # no store or encoder takes them
_WRAP = re.compile(r"(?<=(\S))[^\S\n]*\n[^\S\n]*(?=(\S))")
# Scripts and punctuation that are written without spaces between words.
WIDE = re.compile(f"[{IDEOGRAPHS}\u2018-\u201d\u2026\u3000-\u30ff\uff00-\uffef]")


def clean(text: str) -> str:
    """Remove the characters that no store or encoder takes."""
    return REMOVED.sub("", text)


def one_line(text: str) -> str:
    """Return the text with all white space as single spaces."""
    return " ".join(clean(text).split())


def unwrap(text: str) -> str:
    """Replace single line breaks: by nothing between ideographs, by a space elsewhere."""
    return _WRAP.sub(lambda wrap: "" if WIDE.match(wrap[1]) and WIDE.match(wrap[2]) else " ", text)


def outline(headings: list[tuple[int, int, str]]) -> tuple[Section, ...]:
    """Turn headings (start, level, title) in text order into sections with heading paths."""
    return locate(headings, [])


def locate(
    headings: list[tuple[int, int, str]], locations: list[tuple[int, int | None, str]]
) -> tuple[Section, ...]:
    """Merge headings (start, level, title) and locations (start, page, place) into sections.

    Both lists are in text order. A heading lasts until the next one of its level or above, a
    location until the next location.
    """
    sections = [Section(0)]
    path: list[tuple[int, str]] = []
    events = [(start, 0, page, place) for start, page, place in locations]
    events += [(start, level + 1, None, title) for start, level, title in headings]
    for start, rank, page, name in sorted(events, key=lambda event: (event[0], event[1] > 0)):
        last = sections[-1]
        if rank:  # a heading; level 0, a title, has rank 1
            while path and path[-1][0] >= rank:
                path.pop()
            path.append((rank, name))
            here = Section(start, " > ".join(title for _, title in path), last.page, last.place)
        else:
            here = Section(start, last.heading, page, name)
        if last.start == start:
            sections.pop()
        sections.append(here)
    return tuple(sections)


class TextBuilder:
    """Joins blocks to a text: blank lines between them, none inside a list or a table."""

    def __init__(self) -> None:
        """Start with no text, no heading, no location."""
        self.headings: list[tuple[int, int, str]] = []  # start, level, title
        self._locations: list[tuple[int, int | None, str]] = []  # start, page, place
        self._waiting: tuple[int | None, str] | None = None
        self._parts: list[str] = []
        self._length = 0
        self._last_kind = ""

    def at(self, *, page: int | None = None, place: str = "") -> None:
        """Say where the blocks that follow stand: on a page, or at a place such as "slide 3"."""
        self._waiting = (page, place)

    def add(self, block: str, kind: str = "", level: int | None = None) -> None:
        """Append a block; `kind` is "item", "row" or "", `level` makes it a heading."""
        block = clean(block).strip()
        if not block:
            return
        if self._parts:
            self._append("\n" if kind and kind == self._last_kind else "\n\n")
        if self._waiting is not None:
            self._locations.append((self._length, *self._waiting))
            self._waiting = None
        if level is not None:
            self.headings.append((self._length, level, one_line(block)))
        self._append("- " + block if kind == "item" else block)
        self._last_kind = kind

    def _append(self, part: str) -> None:
        self._parts.append(part)
        self._length += len(part)

    def parsed(self, title: str, metadata: dict[str, str]) -> Parsed:
        """Return the joined text; its first heading goes before `title`."""
        first = self.headings[0][2] if self.headings else ""
        sections = locate(self.headings, self._locations)
        return Parsed("".join(self._parts), first or title, sections, metadata)
