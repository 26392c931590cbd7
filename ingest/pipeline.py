"""From sources to a sink: expand, skip what is unchanged, parse in other processes, hand over.

    report = run([Path("handbook"), "https://example.org/guide"], sink, ChunkingOptions())

Parsing runs ahead of the sink, but only so far that memory stays bounded however large the corpus.
Chunks are handed over in batches, and a file is reported only after its batch is durable. One bad
file never stops the others: it becomes one failed `FileOutcome` whose message is one line that
ends with the remedy. Errors of the sink itself (a `StoreError`) do stop the run, as an interrupt
does; either leaves what was handed over, and the next run goes on from there. Knows nothing of
what a sink does with chunks.
"""

import os
import re
import stat
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, get_args

from ingest.chunking import ChunkingOptions, split
from ingest.documents import Chunk, Document
from ingest.errors import SourceError, TetherError
from ingest.loaders import (
    LOADER_VERSION,
    MAX_BYTES,
    Entry,
    is_supported,
    load,
    read_bytes,
    uri_of,
)
from ingest.sources import (
    MEMBER,
    Expansion,
    Found,
    Piped,
    Refused,
    Source,
    expand,
    is_container,
    is_gone,
    local_path,
    printable,
)
from ingest.web import Fetched, WebOptions, fetch
from ingest.workers import Job, Parsed, ParserOptions, Parsers, Work, hash_file, hash_of

Status = Literal["added", "updated", "moved", "unchanged", "duplicate", "removed", "failed"]


@dataclass(frozen=True, slots=True)
class Item:
    """One document on its way into a sink, as the content of `uri`."""

    uri: str
    file_hash: str  # of the bytes and of all else that shapes the chunks
    document: Document
    chunks: Sequence[Chunk]
    moved_from: str = ""  # the uri under which this text stood before its file was moved
    cut_by: ChunkingOptions | None = None  # the sizes of its chunks, if known


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
        """Return the hash given with the last `add_all` under this uri, None if there was none.

        It is "" where the text that stood for this source's own (a "duplicate") has gone since.
        """
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

        Raises:
            SourceError: One of them cannot be kept, and none was.
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
    message: str = ""  # one line: why it "failed" or was "removed", or what the text is similar to


# Outcome, files done, files in all as far as known: an archive counts as one until it is open.
OnFile = Callable[[FileOutcome, int, int], None]


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """How far parsing runs ahead, how much is handed over at a time, and whether to prune."""

    prune: bool = False  # forget sources that are gone from the given folders and archives
    parsers: ParserOptions = field(default_factory=ParserOptions)
    batch_chunks: int = 256  # hand over when so many chunks have gathered ...
    batch_seconds: float = 5.0  # ... or when the first of them has waited so long
    files_ahead: int = 16  # being parsed or waiting for their turn
    bytes_ahead: int = 64 << 20  # of these files together; a larger one goes alone


@dataclass(frozen=True, slots=True)
class Report:
    """The outcomes of a run, in the order of its files."""

    outcomes: tuple[FileOutcome, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of files per status; a status that did not occur counts 0."""
        statuses = [outcome.status for outcome in self.outcomes]
        return {status: statuses.count(status) for status in get_args(Status)}

    @property
    def failed(self) -> tuple[FileOutcome, ...]:
        """The outcomes of the files that could not be ingested."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")


def run(
    sources: Sequence[Source],
    sink: Sink,
    options: ChunkingOptions,
    *,
    pipeline: PipelineOptions | None = None,
    web: WebOptions | None = None,
    on_file: OnFile | None = None,
) -> Report:
    """Ingest files, folders, web pages and piped bytes into a sink.

    Args:
        sources: Files; folders, searched through all their levels in sorted order; http(s)
            addresses of pages or sitemaps; `Piped` bytes. Inside folders, hidden entries,
            symbolic links and unsupported formats are skipped.
        sink: Receives the documents, in the order of their files.
        options: Sizes of the chunks; changing them ingests all files again.
        pipeline: Processes, batches, pruning.
        web: What may be fetched.
        on_file: Called for each outcome when it is durable, with the files done and the files in
            all; again for a file that had to be read again, when what stood for its text had gone.

    Raises:
        StoreError: The sink cannot store.
    """
    pipeline, web = pipeline or PipelineOptions(), web or WebOptions()
    expansion = expand(sources, web, may_be_empty=pipeline.prune)
    with Parsers(pipeline.parsers) as parsers:
        ingest = _Run(sink, options, pipeline, web, _Ledger(len(expansion.found), on_file))
        ingest.take(list(enumerate(expansion.found)), parsers)
        if pipeline.prune:
            ingest.prune(expansion)
        ingest.take(ingest.bereft(expansion.found), parsers)
    return ingest.ledger.report()


def recipe_of(options: ChunkingOptions) -> str:
    """Return all that shapes the chunks of a file beside its bytes; it goes into the hashes."""
    return f"loader {LOADER_VERSION}, chunks {options.max_tokens}/{options.overlap_tokens}"


_EMPTIED = "holds no text any more"
_Slot = tuple[int, int]  # where an outcome stands: number of the source, number within it


class _Ledger:
    """Collects outcomes as they become final, in whatever order, and tells of each."""

    def __init__(self, total: int, on_file: OnFile | None) -> None:
        self._outcomes: dict[_Slot, FileOutcome] = {}
        self._total = total
        self._on_file = on_file

    def expect(self, more: int) -> None:
        """A source turned out to hold so many more files than the one it was counted as."""
        self._total += more

    def settle(self, slot: _Slot, outcome: FileOutcome) -> None:
        self._outcomes[slot] = outcome
        if self._on_file is not None:
            self._on_file(outcome, len(self._outcomes), self._total)

    def has_replaced(self) -> bool:
        """Whether a source no longer holds what it held before the run."""
        return any(
            outcome.status not in ("added", "unchanged", "failed")
            for outcome in self._outcomes.values()
        )

    def report(self) -> Report:
        return Report(tuple(self._outcomes[slot] for slot in sorted(self._outcomes)))


@dataclass(frozen=True, slots=True)
class _Flight:
    """A source on its way through a parser."""

    number: int  # of the source
    work: Work
    landed: int = 0  # outcomes so far


class _Run:
    """One run: what is in flight, what has gathered for the sink, and what became of it."""

    def __init__(
        self,
        sink: Sink,
        options: ChunkingOptions,
        pipeline: PipelineOptions,
        web: WebOptions,
        ledger: _Ledger,
    ) -> None:
        self.ledger = ledger
        self._sink = sink
        self._options = options
        self._pipeline = pipeline
        self._web = web
        self._recipe = recipe_of(options)
        self._flights: deque[_Flight] = deque()
        self._batch: list[tuple[_Slot, Item]] = []
        self._batch_chunks = 0
        self._batch_since = 0.0
        self._last_split: tuple[Document | None, Sequence[Chunk]] = (None, ())
        self._taken_over: set[str] = set()  # uris of moved files
        self._fetched: set[str] = set()  # addresses of pages after redirects
        self._members: dict[str, dict[str, str]] | None = None  # known hashes, by container
        self._inside: dict[str, set[str]] = {}  # uris found in each container that was opened
        self._unsure: set[str] = set()  # containers with members that could not be listed

    def take(self, numbered: Sequence[tuple[int, Found]], parsers: Parsers) -> None:
        """Bring sources, each under its number, to their outcomes."""
        for number, source in numbered:
            job = self._prepare(source)
            if isinstance(job, FileOutcome):
                self.ledger.settle((number, 0), job)
            else:
                while self._is_far_ahead(job):
                    self._land(parsers)
                self._flights.append(_Flight(number, parsers.start(job)))
            while self._flights and self._flights[0].work.portion.done():
                self._land(parsers)
            self._hand_over_if_due()
        while self._flights:
            self._land(parsers)
        self._hand_over()

    def prune(self, expansion: Expansion) -> None:
        """Forget the sources that are certainly gone from the listed folders and containers."""
        number = len(expansion.found)
        for uri in self._sink.uris():
            if self._is_pruned(uri, expansion.listed) and self._sink.remove(uri):
                self.ledger.expect(1)
                self.ledger.settle((number, 0), FileOutcome(uri, "removed"))
                number += 1

    def bereft(self, found: Sequence[Found]) -> list[tuple[int, Found]]:
        """Return the numbered files whose text was kept as another's, if that has gone since.

        What the other one said would else answer in their name until the next run. Members of
        containers wait for it.
        """
        if not self.ledger.has_replaced():
            return []
        uris = {uri for uri in self._sink.uris() if self._sink.file_hash(uri) == ""}
        return [
            (number, source)
            for number, source in enumerate(found)
            if uris and isinstance(source, Path) and not is_container(source.name)
            if Path(os.path.abspath(source)).as_posix() in uris
        ]

    def _is_pruned(self, uri: str, listed: Sequence[str]) -> bool:
        path = local_path(uri)
        if path is None:
            return False
        container = path.as_posix()
        if container in self._inside and container not in self._unsure:
            return uri not in self._inside[container] and not is_gone(uri)
        return any(uri.startswith(f"{root.rstrip('/')}/") for root in listed) and is_gone(uri)

    # --- Before parsing ---

    def _prepare(self, source: Found) -> Job | FileOutcome:
        """Return the job that parses a source, or what became of it without parsing."""
        if isinstance(source, Refused):
            return _failure(source.uri, source.message)
        try:
            job, version = self._look_at(source)
        except SourceError as error:
            shown = source.uri if isinstance(source, Piped) else str(source)
            shown = os.path.abspath(source) if isinstance(source, Path) else shown
            return _failure(shown, str(error))
        if not version:
            return replace(job, known=self._known_members(job.uri))
        if job.uri in self._fetched or self._sink.file_hash(job.uri) == version:
            return FileOutcome(job.uri, "unchanged")
        if isinstance(job.source, Fetched):
            self._fetched.add(job.uri)
        return job

    def _look_at(self, source: Path | str | Piped) -> tuple[Job, str]:
        """Return the job that would parse a source, and the hash of its bytes.

        The hash is "" for a container: whether it is unchanged is asked of each member, because
        an earlier run may have been interrupted between them.
        """
        if isinstance(source, Path):
            uri = uri_of(source)
            size, version = _weigh(source, self._recipe)
            if not is_supported(source.name):
                load(source)  # raises: unsupported
            return Job(Path(uri), uri, self._recipe, size), "" if is_container(uri) else version
        if isinstance(source, Piped):
            entry = Entry(source.uri, source.name, source.data)
            if len(entry.data) > MAX_BYTES:
                limit = f"{MAX_BYTES >> 20} MB"
                raise SourceError(f"{entry.uri}: larger than {limit}; split it into smaller files")
            job = Job(entry, entry.uri, self._recipe, len(entry.data))
            return job, "" if is_container(entry.uri) else hash_of(entry.data, self._recipe)
        page = fetch(source, self._web)
        job = Job(page, page.url, self._recipe, len(page.data))
        return job, hash_of(page.data, self._recipe)

    def _known_members(self, container: str) -> Mapping[str, str]:
        if self._members is None:
            self._members = {}
            for uri in self._sink.uris():
                if is_container(outer := uri.partition(MEMBER)[0]):
                    known = self._sink.file_hash(uri) or ""
                    self._members.setdefault(outer, {})[uri] = known
        return self._members.get(container, {})

    def _is_far_ahead(self, job: Job) -> bool:
        """Whether a job has to wait until some of those before it have landed."""
        ahead = sum(flight.work.job.size for flight in self._flights)
        too_many = len(self._flights) >= self._pipeline.files_ahead
        return bool(self._flights) and (too_many or ahead + job.size > self._pipeline.bytes_ahead)

    # --- After parsing ---

    def _land(self, parsers: Parsers) -> None:
        """Wait for the first source in flight and take what it gave."""
        flight = self._flights.popleft()
        job, landed = flight.work.job, flight.landed
        while not flight.work.portion.done():
            left = self._batch_since + self._pipeline.batch_seconds - time.monotonic()
            wait([flight.work.portion], timeout=max(0.0, left) if self._batch else None)
            self._hand_over_if_due()
        portion = parsers.finish(flight.work)
        if portion.rest is not None:  # its parser starts before its texts are cut
            work, count = parsers.start(portion.rest), landed + len(portion.parsed)
            self._flights.appendleft(_Flight(flight.number, work, count))
        for parsed in portion.parsed:
            if landed:
                self.ledger.expect(1)
            self._receive((flight.number, landed), job, parsed)
            landed += 1

    def _receive(self, slot: _Slot, job: Job, parsed: Parsed) -> None:
        if is_container(job.uri):
            self._inside.setdefault(job.uri, set()).add(parsed.uri)
            if parsed.message and parsed.uri == job.uri:
                self._unsure.add(job.uri)
        if parsed.is_empty and self._sink.remove(parsed.uri):
            self.ledger.settle(slot, FileOutcome(parsed.uri, "removed", message=_EMPTIED))
        elif parsed.message:
            self.ledger.settle(slot, _failure(parsed.uri, parsed.message))
        elif parsed.document is None:
            self.ledger.settle(slot, FileOutcome(parsed.uri, "unchanged"))
        else:
            self._gather(slot, parsed.uri, parsed.file_hash, parsed.document)

    def _gather(self, slot: _Slot, uri: str, file_hash: str, document: Document) -> None:
        try:
            chunks = self._split(document)
        except TetherError as error:
            if not isinstance(error, SourceError):
                raise
            self.ledger.settle(slot, _failure(uri, str(error)))
            return
        except Exception as error:  # no text may stop the others
            reason = f"{type(error).__name__}: {error}"[:200]
            message = f"{uri}: cannot be cut into chunks ({reason}); save it in another format"
            self.ledger.settle(slot, _failure(uri, message))
            return
        if not self._batch:
            self._batch_since = time.monotonic()
        moved_from = self._moved_from(document)
        item = Item(uri, file_hash, document, chunks, moved_from, self._options)
        self._batch.append((slot, item))
        self._batch_chunks += len(chunks)
        if self._batch_chunks >= self._pipeline.batch_chunks:
            self._hand_over()

    def _split(self, document: Document) -> Sequence[Chunk]:
        """Cut a document; one that says what the last one said is not cut again.

        Hostile archives name one large member a thousand times.
        """
        before, chunks = self._last_split
        if before is None or (before.id, before.sections) != (document.id, document.sections):
            chunks = split(document, self._sink.count_tokens, self._options)
            self._last_split = document, chunks
        return chunks

    def _moved_from(self, document: Document) -> str:
        for uri in self._sink.uris_of(document.id):
            if uri not in self._taken_over and is_gone(uri):
                self._taken_over.add(uri)
                return uri
        return ""

    def _hand_over_if_due(self) -> None:
        waited = time.monotonic() - self._batch_since
        if self._batch and waited >= self._pipeline.batch_seconds:
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the sink what has gathered, and settle it once it is durable."""
        if not self._batch:
            return
        batch, self._batch, self._batch_chunks = self._batch, [], 0
        self._store(batch)

    def _store(self, batch: Sequence[tuple[_Slot, Item]]) -> None:
        """Store and settle a batch; where the sink refuses an item, the others one by one."""
        try:
            kept_all = self._sink.add_all([item for _, item in batch])
        except SourceError as error:
            if len(batch) == 1:
                ((slot, item),) = batch
                self.ledger.settle(slot, _failure(item.uri, str(error)))
                return
            for entry in batch:
                self._store([entry])
            return
        for (slot, item), kept in zip(batch, kept_all, strict=True):
            self.ledger.settle(slot, _outcome(item, kept))


def _weigh(path: Path, recipe: str) -> tuple[int, str]:
    """Return the size and the hash of a file.

    Raises:
        SourceError: It is missing, not a regular file, too large, or unreadable.
    """
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
            return status.st_size, hash_file(path, recipe)
    except (OSError, ValueError):
        pass
    data = read_bytes(path)  # raises, with the line that says why
    return len(data), hash_of(data, recipe)


def _outcome(item: Item, kept: Kept) -> FileOutcome:
    message = ""
    if kept.similar_to:
        alike = "says the same as" if kept.similarity >= 1 else f"{kept.similarity:.0%} like"
        message = f"{alike} {printable(kept.similar_to)}"
    chunks = 0 if kept.status == "duplicate" else len(item.chunks)
    return FileOutcome(item.uri, kept.status, chunks, kept.embedded, message)


def _failure(uri: str, message: str) -> FileOutcome:
    return FileOutcome(printable(uri), "failed", message=printable(message))


class ListSink:
    """A `Sink` in memory, for tests and dry runs; a token is an ideograph, a word or a sign."""

    _TOKEN = re.compile(r"[A-Za-z0-9]+|[^\sA-Za-z0-9]")

    def __init__(self) -> None:
        """Start empty."""
        self._sources: dict[str, tuple[str, str]] = {}  # uri to file hash and document id
        self._texts: dict[str, tuple[Document, tuple[Chunk, ...]]] = {}  # by document id
        self._holders: dict[str, dict[str, None]] = {}  # document id to its uris, oldest first

    @property
    def documents(self) -> dict[str, tuple[Document, tuple[Chunk, ...]]]:
        """The texts with their chunks, by the oldest uri that holds each."""
        return {next(iter(self._holders[key])): kept for key, kept in self._texts.items()}

    def count_tokens(self, text: str) -> int:
        """Count ideographs, words and signs."""
        return len(self._TOKEN.findall(text))

    def file_hash(self, uri: str) -> str | None:
        """Return the hash of the file version last added under this uri."""
        return self._sources.get(uri, (None, ""))[0]

    def add_all(self, items: Sequence[Item]) -> Sequence[Kept]:
        """Keep documents unless their text is kept under another uri."""
        return [self._add(item) for item in items]

    def remove(self, uri: str) -> bool:
        """Forget a source, and its text if no other source holds it."""
        if uri not in self._sources:
            return False
        _, key = self._sources.pop(uri)
        del self._holders[key][uri]
        if not self._holders[key]:
            del self._holders[key], self._texts[key]
        return True

    def uris(self) -> Sequence[str]:
        """Return the uris of all sources."""
        return list(self._sources)

    def uris_of(self, document_id: str) -> Sequence[str]:
        """Return the uris that hold this very text, oldest first."""
        return list(self._holders.get(document_id, ()))

    def _add(self, item: Item) -> Kept:
        known = item.uri in self._sources
        key = item.document.id
        moved = item.moved_from in self._holders.get(key, ())
        holders = [uri for uri in self.uris_of(key) if uri != item.moved_from]
        if self._sources.get(item.uri, ("", key))[1] != key:
            self.remove(item.uri)
        if moved:
            self.remove(item.moved_from)
        self._sources[item.uri] = (item.file_hash, key)
        self._holders.setdefault(key, {})[item.uri] = None
        if holders and holders[0] != item.uri:
            return Kept("duplicate", similar_to=holders[0], similarity=1.0)
        self._texts[key] = (item.document, tuple(item.chunks))
        if moved:
            return Kept("moved")
        return Kept("updated" if known else "added", embedded=len(item.chunks))
