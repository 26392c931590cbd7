"""From paths to a sink: expand folders, skip what is unchanged, load, chunk, hand over.

    report = run([Path("handbook"), Path("报告.pdf")], sink, ChunkingOptions())

One bad file never stops the others: it becomes one failed `FileOutcome` whose message ends with
the remedy. Errors of the sink itself (a `StoreError`) do stop the run. Knows nothing of what a
sink does with chunks.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ingest.chunking import ChunkingOptions, split
from ingest.documents import Chunk, Document
from ingest.errors import SourceError, TetherError
from ingest.loaders import LOADER_VERSION, SUPPORTED_SUFFIXES, load, read_bytes, uri_of

Status = Literal["added", "updated", "moved", "unchanged", "duplicate", "removed", "failed"]


@dataclass(frozen=True, slots=True)
class Item:
    """One document on its way into a sink, as the content of `uri`."""

    uri: str
    file_hash: str  # of the bytes and of all else that shapes the chunks
    document: Document
    chunks: Sequence[Chunk]
    moved_from: str = ""  # the uri under which this text stood before its file was moved


@dataclass(frozen=True, slots=True)
class Kept:
    """What a sink did with an item."""

    status: Literal["added", "updated", "moved", "duplicate"]
    embedded: int = 0  # chunks that had to be embedded; the others were known
    similar_to: str = ""  # uri of a kept document that says (nearly) the same, "" if there is none
    similarity: float = 0.0  # of the two texts, 0 to 1


class Sink(Protocol):
    """Where documents go; it also says how its encoder counts tokens."""

    def count_tokens(self, text: str) -> int:
        """Return the number of encoder tokens in a text, special tokens excluded."""
        ...

    def file_hash(self, uri: str) -> str | None:
        """Return the hash given with the last `add_all` under this uri, None if there was none."""
        ...

    def add_all(self, items: Sequence[Item]) -> Sequence[Kept]:
        """Keep documents, each replacing what stood under its uri before.

        When this returns, all of them are durable and can be found; killed at any instant before,
        each of them is wholly in or wholly out.

        Returns:
            One `Kept` an item, in order. "duplicate": another source holds this text, or one that
            says the same (then `similar_to` names it), and nothing was stored but the hash, so
            that the file counts as unchanged next time. "moved": the text stood under
            `moved_from`, which is forgotten.
        """
        ...

    def remove(self, uri: str) -> bool:
        """Forget a source, and its document if no other source holds it; False if unknown."""
        ...

    def uris(self) -> Sequence[str]:
        """Return the uris of all sources, in the order in which they came."""
        ...

    def uris_of(self, document_id: str) -> Sequence[str]:
        """Return the uris that hold this very text, oldest first."""
        ...


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """What became of one source: a file, an entry of an archive, a web page."""

    uri: str
    status: Status
    chunks: int = 0  # chunks of the document, where it is "added", "updated" or "moved"
    embedded: int = 0  # of these, how many had to be embedded
    message: str = ""  # one line: why it "failed", or what the text is similar to


OnFile = Callable[[FileOutcome, int, int], None]  # outcome, files done, files in all


@dataclass(frozen=True, slots=True)
class Report:
    """The outcomes of a run, in the order of its files."""

    outcomes: tuple[FileOutcome, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of files per status; a status that did not occur counts 0."""
        statuses = [outcome.status for outcome in self.outcomes]
        return {
            status: statuses.count(status)
            for status in ("added", "updated", "unchanged", "duplicate", "failed")
        }

    @property
    def failed(self) -> tuple[FileOutcome, ...]:
        """The outcomes of the files that could not be ingested."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")


def run(
    paths: Sequence[Path],
    sink: Sink,
    options: ChunkingOptions,
    on_file: OnFile | None = None,
) -> Report:
    """Ingest files and folders into a sink.

    Args:
        paths: Files, or folders that are searched through all their levels in sorted order.
            Inside folders, hidden entries, symbolic links and unsupported formats are skipped.
        sink: Receives the documents.
        options: Sizes of the chunks; changing them ingests all files again.
        on_file: Called after each file with its outcome, the files done and the files in all.

    Raises:
        StoreError: The sink cannot store.
    """
    sources = list(_expand(paths))
    outcomes: list[FileOutcome] = []
    for source in sources:
        outcome = source if isinstance(source, FileOutcome) else _ingest(source, sink, options)
        outcomes.append(outcome)
        if on_file is not None:
            on_file(outcome, len(outcomes), len(sources))
    return Report(tuple(outcomes))


def file_hash(data: bytes, options: ChunkingOptions) -> str:
    """Return the SHA-256, in hex, of a file's bytes and of all else that shapes its chunks."""
    digest = hashlib.sha256(data)
    recipe = f"loader {LOADER_VERSION}, chunks {options.max_tokens}/{options.overlap_tokens}"
    digest.update(f"\0{recipe}".encode())
    return digest.hexdigest()


def _ingest(path: Path, sink: Sink, options: ChunkingOptions) -> FileOutcome:
    try:
        uri, data = uri_of(path), read_bytes(path)
    except SourceError as error:
        return _failure(path, str(error))
    version = file_hash(data, options)
    if sink.file_hash(uri) == version:
        return FileOutcome(uri, "unchanged")
    try:
        document = load(path, data)
        chunks = split(document, sink.count_tokens, options)
    except SourceError as error:
        return _failure(path, str(error))
    except TetherError:
        raise
    except Exception as error:  # parsers meet hostile files; the other files must go on
        reason = f"{type(error).__name__}: {error}"[:200]
        return _failure(path, f"{uri}: cannot be parsed ({reason}); save it in another format")
    status = sink.add(uri, version, document, chunks)
    return FileOutcome(uri, status, 0 if status == "duplicate" else len(chunks))


def _failure(path: Path, message: str) -> FileOutcome:
    uri = Path(os.path.abspath(path)).as_posix()
    return FileOutcome(_printable(uri), "failed", message=" ".join(_printable(message).split()))


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _expand(paths: Sequence[Path]) -> Iterator[Path | FileOutcome]:
    """Yield every file once, and a failure for each path that leads to none."""
    seen: set[str] = set()
    for path in paths:
        for found in _files_in(path) if os.path.isdir(path) else [path]:
            key = found.uri if isinstance(found, FileOutcome) else os.path.abspath(found)
            if key not in seen:
                seen.add(key)
                yield found


def _files_in(folder: Path) -> Iterator[Path | FileOutcome]:
    """Yield the supported files under a folder, sorted.

    Symbolic links are not followed: one that stays inside leads to files found anyway, any other
    one leaves the folder or goes in circles.
    """
    unreadable: list[OSError] = []
    found_any = False
    for root, folders, names in os.walk(folder, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            supported = path.suffix.lower() in SUPPORTED_SUFFIXES and not name.startswith(".")
            if supported and not path.is_symlink():
                found_any = True
                yield path
    for error in unreadable:
        message = f"{error.filename}: cannot be listed ({error.strerror}); grant read permission"
        yield _failure(Path(error.filename), message)
    if not found_any and not unreadable:
        suffixes = " ".join(SUPPORTED_SUFFIXES)
        yield _failure(folder, f"no supported files in {folder}; supported: {suffixes}")


class ListSink:
    """A `Sink` in memory, for tests and dry runs; a token is an ideograph, a word or a sign."""

    _TOKEN = re.compile(r"[A-Za-z0-9]+|[^\sA-Za-z0-9]")

    def __init__(self) -> None:
        """Start empty."""
        self.documents: dict[str, tuple[Document, tuple[Chunk, ...]]] = {}  # by uri
        self._hashes: dict[str, str] = {}

    def count_tokens(self, text: str) -> int:
        """Count ideographs, words and signs."""
        return len(self._TOKEN.findall(text))

    def file_hash(self, uri: str) -> str | None:
        """Return the hash of the file version last added under this uri."""
        return self._hashes.get(uri)

    def add(self, uri: str, file_hash: str, document: Document, chunks: Sequence[Chunk]) -> Added:
        """Keep a document unless its text is kept under another uri."""
        known = uri in self._hashes
        self._hashes[uri] = file_hash
        self.documents.pop(uri, None)
        if any(document.id == kept.id for kept, _ in self.documents.values()):
            return "duplicate"
        self.documents[uri] = (document, tuple(chunks))
        return "updated" if known else "added"
