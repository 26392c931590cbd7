"""Parse sources in processes of their own, which may hang, crash or swell without harm.

    with Parsers(ParserOptions()) as parsers:
        work = parsers.start(Job(Path("handbook.pdf"), uri, recipe))
        parsed = parsers.finish(work)

A parser that takes too long or dies is replaced, and its one file fails with a line that says so.
Memory is limited in the workers, their output goes nowhere, and they import `ingest` only. They
never run the main module of the program that uses them, so a script needs no `__main__` guard.
Small plain texts are parsed in this process: no foreign parser with C code touches them, their
cost is bounded, and a run over a few notes starts no process at all.
Knows nothing of chunks and sinks.
"""

import hashlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from multiprocessing import context, get_all_start_methods, parent_process
from pathlib import Path
from threading import Thread
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from ingest.documents import Document
from ingest.errors import EmptySource, SourceError
from ingest.loaders import Entry, load_entry, read_entry, unpack
from ingest.sources import is_container, printable
from ingest.web import Fetched
from ingest.webpages import load_page

if TYPE_CHECKING:
    from pebble import ProcessPool

_HARMLESS = {".txt", ".md", ".markdown"}
_HARMLESS_BYTES = 32 * 1024  # the worst Markdown of this size takes about a second
_PORTION_CHARACTERS = 16_000_000  # of text that one answer of a worker carries, the last excepted
_PORTION_SECONDS = 5.0
_ALL = sys.maxsize
_STRIKES = 3  # members of a container that may bring down a worker one after the other


@dataclass(frozen=True, slots=True)
class ParserOptions:
    """How many processes parse, and what they may use."""

    workers: int = 0  # processes; 0 takes one fewer than the cores, at most 4
    file_seconds: float = 120.0  # per file, or per member of an archive
    memory_bytes: int = 2 << 30  # of address space per worker, where the system can limit it
    files_per_worker: int = 200  # then a fresh process takes over, so that leaks end


@dataclass(frozen=True, slots=True)
class Job:
    """A source to parse; of a container, the members from number `first` on, at most `most`."""

    source: Path | Entry | Fetched
    uri: str
    recipe: str  # all else that shapes the chunks: goes into the hashes
    size: int = 0  # bytes
    known: Mapping[str, str] = field(default_factory=dict)  # hashes of members, by uri
    first: int = 0
    most: int = _ALL
    strikes: int = 0  # members just before `first` that failed by timeout or crash


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document, or why there is none: it is unchanged (no message), or it failed."""

    uri: str
    file_hash: str = ""
    document: Document | None = None
    message: str = ""
    is_empty: bool = False  # it failed for holding no text: nothing it held before stands in it


@dataclass(frozen=True, slots=True)
class Portion:
    """What a job gave; `rest` is the job that gives what follows."""

    parsed: tuple[Parsed, ...]
    rest: Job | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """A job on its way."""

    job: Job
    portion: "Future[Portion]"


def hash_of(data: bytes, recipe: str) -> str:
    """Return the SHA-256, in hex, of a content and of all else that shapes its chunks."""
    return _sealed(hashlib.sha256(data), recipe)


def hash_file(path: Path, recipe: str) -> str:
    """Return `hash_of` the content of a file, read piece by piece.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb", buffering=0) as stream:
        return _sealed(hashlib.file_digest(stream, "sha256"), recipe)


def _sealed(digest: "hashlib._Hash", recipe: str) -> str:
    digest.update(f"\0{recipe}".encode())
    return digest.hexdigest()


def parse(job: Job) -> Portion:
    """Parse a source, or so much of a container as one answer should carry. Never raises."""
    parsed: list[Parsed] = []
    characters, started = 0, time.monotonic()
    try:
        for number, entry in enumerate(_entries(job.source)):
            if number < job.first:
                continue
            enough = len(parsed) >= job.most or characters > _PORTION_CHARACTERS
            if parsed and (enough or time.monotonic() - started > _PORTION_SECONDS):
                most = min(2 * job.most, _ALL)  # of a job tried again, more with each success
                return Portion(tuple(parsed), replace(job, first=number, most=most, strikes=0))
            parsed.append(_parse_entry(entry, job))
            document = parsed[-1].document
            characters += len(document.text) if document else 0
    except Exception as error:  # the container itself
        parsed.append(Parsed(job.uri, message=_reason(job.uri, error)))
    return Portion(tuple(parsed))


def _entries(source: Path | Entry | Fetched) -> Iterator[Entry | Fetched | SourceError]:
    if isinstance(source, Fetched):
        yield source
    else:
        yield from unpack(read_entry(source) if isinstance(source, Path) else source)


def _parse_entry(entry: Entry | Fetched | SourceError, job: Job) -> Parsed:
    if isinstance(entry, SourceError):
        return Parsed(job.uri, message=str(entry))
    uri = entry.url if isinstance(entry, Fetched) else entry.uri
    version = hash_of(entry.data, job.recipe)
    if job.known.get(uri) == version:
        return Parsed(uri, version)
    try:
        document = load_page(entry) if isinstance(entry, Fetched) else load_entry(entry)
    except Exception as error:  # parsers meet hostile files; the others must go on
        is_empty = isinstance(error, EmptySource)
        return Parsed(uri, message=_reason(uri, error), is_empty=is_empty)
    return Parsed(uri, version, document)


def _reason(uri: str, error: Exception) -> str:
    if isinstance(error, SourceError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{uri}: needs more memory than a parser may use; split it into smaller files"
    if isinstance(error, RecursionError):
        return f"{uri}: nested too deeply to be parsed; save it in another format"
    reason = printable(f"{type(error).__name__}: {error}"[:200])
    return f"{uri}: cannot be parsed ({reason}); save it in another format"


class Parsers:
    """Worker processes that start with the first job that needs one."""

    def __init__(self, options: ParserOptions) -> None:
        """Start nothing yet."""
        self._options = options
        self._pool: ProcessPool | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all workers, whatever they are doing."""
        self._stop()

    def start(self, job: Job) -> Work:
        """Have a job parsed, here if it is harmless, else by a worker."""
        if _is_harmless(job):
            portion: Future[Portion] = Future()
            portion.set_result(parse(job))
            return Work(job, portion)
        try:
            return Work(job, self._schedule(job))
        except RuntimeError:  # a worker died while idle: the pool has given itself up
            self._stop()
            return Work(job, self._schedule(job))

    def finish(self, work: Work) -> Portion:
        """Wait for a job; what became of it if its worker hung or died.

        A job whose worker died is tried once more, one member at a time: it may have died of
        another one's doing, and if not, the member at fault is found.
        """
        from pebble import ProcessExpired

        job = work.job
        try:
            return work.portion.result()
        except TimeoutError:
            spent = f"took longer than {self._options.file_seconds:g} seconds; split it"
            if job.most == 1 or not is_container(job.uri):
                return self._failed(job, spent)
        except (ProcessExpired, RuntimeError):  # the latter where the whole pool broke
            if job.most == 1:
                return self._failed(job, "crashed its parser; save it in another format")
        return Portion((), replace(job, most=1))

    @staticmethod
    def _failed(job: Job, reason: str) -> Portion:
        if not is_container(job.uri):
            return Portion((Parsed(job.uri, message=f"{job.uri}: {reason}"),))
        failure = Parsed(job.uri, message=f"{job.uri}: member {job.first + 1} {reason}")
        if job.strikes + 1 >= _STRIKES:
            ending = f"{job.uri}: given up after member {job.first + 1}; unpack it yourself"
            return Portion((failure, Parsed(job.uri, message=ending)))
        return Portion((failure,), replace(job, first=job.first + 1, strikes=job.strikes + 1))

    def _schedule(self, job: Job) -> "Future[Portion]":
        if self._pool is None:
            self._pool = _new_pool(self._options)
        seconds = self._options.file_seconds
        future: Future[Portion] = self._pool.schedule(
            _parse_within, args=[job, seconds], timeout=seconds
        )
        return future

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None


def _is_harmless(job: Job) -> bool:
    if not isinstance(job.source, Path) or job.source.suffix.lower() not in _HARMLESS:
        return False
    try:
        return job.source.stat().st_size <= _HARMLESS_BYTES
    except OSError:
        return False


def _new_pool(options: ParserOptions) -> "ProcessPool":
    from pebble import ProcessPool

    start_method = _Context()  # of processes that are safe to start beside threads
    if _SERVED:
        start_method.set_forkserver_preload(["ingest.workers"])
    return ProcessPool(
        max_workers=options.workers or max(1, min(4, (os.cpu_count() or 2) - 1)),
        max_tasks=options.files_per_worker,
        initializer=_prepare_worker,
        initargs=[options.memory_bytes],
        context=start_method,
    )


_SERVED = "forkserver" in get_all_start_methods()
_BaseProcess: Any = context.ForkServerProcess if _SERVED else context.SpawnProcess
_BaseContext: Any = context.ForkServerContext if _SERVED else context.SpawnContext


class _Process(_BaseProcess):  # type: ignore[misc]
    """A process that starts without importing the main module of its parent."""

    @staticmethod
    def _Popen(process: Any) -> Any:  # noqa: ANN401, N802
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return _BaseProcess._Popen(process)
        finally:
            sys.modules["__main__"] = main


class _Context(_BaseContext):  # type: ignore[misc]
    Process = _Process


def _prepare_worker(memory_bytes: int) -> None:
    """Silence a worker, whose libraries may print what a document says, and limit its memory.

    It ends with its parent, even with one that was killed.
    """
    Thread(target=_end_with_parent, daemon=True).start()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    if sys.platform != "win32":
        import resource

        _limit(resource.RLIMIT_AS, memory_bytes)
        _limit(resource.RLIMIT_CORE, 0)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _parse_within(job: Job, seconds: float) -> Portion:
    """Parse in a worker; the limit on its time holds even where nobody is left to end it."""
    if sys.platform != "win32":
        import resource

        usage = resource.getrusage(resource.RUSAGE_SELF)
        used = int(usage.ru_utime + usage.ru_stime)
        _limit(resource.RLIMIT_CPU, used + 2 * int(seconds) + 10)
    return parse(job)


def _limit(kind: int, value: int) -> None:
    import resource

    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
