"""The nouns of ingestion: a `Document` and its `Chunk`s.

All offsets are in characters (Python `str` indices) of `Document.text`. A chunk never rewrites
what it covers: `document.text[chunk.start:chunk.end] == chunk.text`, so a citation can be checked
by a machine. Knows nothing of files, embeddings or models.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

# In the metadata of a document whose content names no title: a renamed file stays the same text.
TITLE_FROM_NAME = {"title_from": "name"}


@dataclass(frozen=True, slots=True)
class Section:
    """From character `start` on, the text stands under `heading`, on `page` or at `place`.

    `heading` is the path of headings joined by " > " ("" where there is none); `page` counts from
    1 and is None in formats without pages. `place` names any other location as "<unit> <which>":
    "slide 3", "sheet Sales rows 2-40", "rows 2-40", "cell 7", "chapter 2", "lines 10-52",
    "entry 12" ("" where there is none). A section ends where the next one starts.
    """

    start: int
    heading: str = ""
    page: int | None = None
    place: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """One text with its origin. `id` is the hash of the text, so equal content has one id."""

    id: str
    uri: str
    title: str
    text: str
    language: str  # "zh", "en", "mixed" or "und"
    media_type: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()  # sorted by start


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of one document, small enough for the encoder: `document.text[start:end] == text`."""

    id: str
    document_id: str
    start: int
    end: int
    text: str
    heading: str = ""
    page: int | None = None
    place: str = ""


def content_id(text: str) -> str:
    """Return the SHA-256 of the text's UTF-8 form as 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def chunk_id(document_id: str, start: int, end: int) -> str:
    """Return the id of the chunk that covers `start:end` of a document."""
    return f"{document_id}:{start}-{end}"
