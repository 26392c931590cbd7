"""Cut a `Document` into `Chunk`s that fit an encoder: whole sentences at one place.

    chunks = split(document, encoder.count_tokens, ChunkingOptions(max_tokens=200))

Every chunk is a span of the source (`document.text[c.start:c.end] == c.text`) and together they
cover every non-space character. Each sentence is counted once, so the cost is linear in the text;
a chunk's size is the sum over its sentences. Where a chunk ends depends on the text around that
place and little on where the chunk began, so that after an edit the old boundaries soon return and
only the chunks around it are new. Knows nothing of encoders but how they count.
"""

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ingest.documents import Chunk, Document, Section, chunk_id
from ingest.errors import SettingsError
from ingest.languages import split_sentences

_WINDOW = 20_000  # characters counted at a time: tokens of a line of 200 MB would fill the memory

CountTokens = Callable[[str], int]

# Where a sentence that is too long may be cut, best place first.
_SEPARATORS = [
    *("\n\n", "\n", "。", "！", "？", "；", "…", ". ", "! ", "? ", "; "),
    *("：", ": ", "，", ", ", "、", "）", ") ", " ", ",", "\u200b", ""),
]


@dataclass(frozen=True)
class ChunkingOptions:
    """How large chunks are and how much they share."""

    max_tokens: int = 200  # encoder tokens per chunk, special tokens excluded
    overlap_tokens: int = 0  # most encoder tokens repeated from the end of the chunk before

    def __post_init__(self) -> None:
        """Refuse sizes that no chunk can have.

        Raises:
            SettingsError: `max_tokens` is below 1 or `overlap_tokens` is not below it.
        """
        if self.max_tokens < 1:
            raise SettingsError(f"max_tokens is {self.max_tokens}; choose 1 or more")
        if not 0 <= self.overlap_tokens < self.max_tokens:
            raise SettingsError(
                f"overlap_tokens is {self.overlap_tokens}; choose 0 to {self.max_tokens - 1}"
            )


@dataclass(frozen=True, slots=True)
class _Piece:
    """A sentence, or a part of one that was too long, with its size."""

    start: int
    end: int
    tokens: int
    opens: bool  # whether it begins a paragraph
    mark: int  # a hash of its text


def split(document: Document, count_tokens: CountTokens, options: ChunkingOptions) -> list[Chunk]:
    """Return the chunks of a document in reading order.

    A chunk never reaches over a change of heading, page or place. No chunk is larger than
    `options.max_tokens`, up to the drift of counting sentences one by one; a single character
    that has more tokens than that is a chunk of its own.
    """
    chunks = []
    for section, end in _regions(document):
        pieces = list(_pieces(document.text, section.start, end, count_tokens, options.max_tokens))
        for first, last in _pack(pieces, options):
            chunks.append(_chunk(document, pieces[first].start, pieces[last].end, section))
    return chunks


def _chunk(document: Document, start: int, end: int, section: Section) -> Chunk:
    return Chunk(
        id=chunk_id(document.id, start, end),
        document_id=document.id,
        start=start,
        end=end,
        text=document.text[start:end],
        heading=section.heading,
        page=section.page,
        place=section.place,
    )


def _regions(document: Document) -> Iterator[tuple[Section, int]]:
    """Yield (section, end) so that neighbours differ in heading, page or place."""
    current = Section(0)
    for section in document.sections:
        if replace(section, start=current.start) == current:
            continue
        if section.start > current.start:
            yield current, section.start
        current = section
    yield current, len(document.text)


def _pieces(
    text: str, start: int, end: int, count_tokens: CountTokens, limit: int
) -> Iterator[_Piece]:
    before = start
    for first, last in split_sentences(text[start:end]):
        opens = text.count("\n", before, start + first) > 1
        for window in _windows(text, start + first, start + last):
            for piece in _cut(text, *window, count_tokens, limit):
                yield replace(piece, opens=opens)
                opens = False
        before = start + last


def _windows(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield a sentence whole, or in parts that end at a space, if there is one."""
    while start < end:
        stop = end
        if end - start > _WINDOW:
            stop = text.rfind(" ", start, start + _WINDOW) + 1 or start + _WINDOW
        yield from _trimmed(text, start, stop)
        start = stop


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield a span without the spaces around it, unless it holds nothing else."""
    part = text[start:end]
    if stripped := part.strip():
        start += len(part) - len(part.lstrip())
        yield start, start + len(stripped)


def _cut(
    text: str, start: int, end: int, count_tokens: CountTokens, limit: int
) -> Iterator[_Piece]:
    """Yield a span whole if it fits, else in about equal parts, each cut again if need be."""
    sentence = text[start:end]
    tokens = count_tokens(sentence)
    if tokens <= limit or len(sentence) == 1:
        yield _Piece(start, end, tokens, False, zlib.crc32(sentence.encode("utf-8", "replace")))
        return
    # Sizes are taken in characters, a tenth below the average, so that the encoder is asked once
    # per part and not once per separator.
    parts = max(2, math.ceil(tokens / (0.9 * limit)))
    for part in _separate(sentence, math.ceil(len(sentence) / parts)):
        for span in _trimmed(text, start, start + len(part)):
            yield from _cut(text, *span, count_tokens, limit)
        start += len(part)


def _separate(sentence: str, size: int) -> list[str]:
    """Cut a sentence into parts of at most `size` characters that join up to it again."""
    # Deferred: this import takes over half a second and few documents need it.
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    splitter = RecursiveCharacterTextSplitter(
        separators=_SEPARATORS,
        keep_separator="end",
        chunk_size=size,
        chunk_overlap=0,
        strip_whitespace=False,
    )
    return splitter.split_text(sentence)


def _pack(pieces: list[_Piece], options: ChunkingOptions) -> Iterator[tuple[int, int]]:
    """Yield (first, last) indices of the pieces of each chunk."""
    first = fresh = 0  # pieces before `fresh` have been yielded already
    while fresh < len(pieces):
        last = _last(pieces, first, fresh, options.max_tokens)
        yield first, last
        fresh = last + 1
        if fresh < len(pieces):
            room = min(options.overlap_tokens, options.max_tokens - pieces[fresh].tokens)
            first = _overlap(pieces, first + 1, fresh, room)


def _last(pieces: list[_Piece], first: int, fresh: int, limit: int) -> int:
    """Return the last piece of the chunk that begins with `first` and takes `fresh` in any case.

    All that is left, if it fits. Else, of the places at which the chunk would be at least half
    full, the one before a paragraph, and among equals the one before the piece with the least
    hash: a choice that windows which overlap make alike.
    """
    size = sum(piece.tokens for piece in pieces[first : fresh + 1])
    last = fresh
    ends = [fresh] if size >= limit / 2 else []
    while last + 1 < len(pieces) and size + pieces[last + 1].tokens <= limit:
        last += 1
        size += pieces[last].tokens
        if size >= limit / 2:
            ends.append(last)
    if last + 1 == len(pieces):
        return last
    return min(ends or [last], key=lambda end: (not pieces[end + 1].opens, pieces[end + 1].mark))


def _overlap(pieces: list[_Piece], earliest: int, fresh: int, room: int) -> int:
    """Return the first of the pieces right before `fresh` that together fit into `room` tokens."""
    first = fresh
    while room > 0 and first > earliest and pieces[first - 1].tokens <= room:
        first -= 1
        room -= pieces[first].tokens
    return first
