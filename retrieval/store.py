"""The truth of a collection: one SQLite database with documents, chunks, terms and vectors.

    home/collections/<name>/truth.sqlite3   the truth (WAL: readers never wait for the writer)
                            write.lock      held by the one process that may write
                            manifest.json   names the snapshot of the vectors: retrieval/index.py

A document goes in or out in one transaction, so a killed process loses nothing that was committed
and leaves nothing half done. Equal texts are one document with several sources. Row numbers of
chunks are never used twice, and every commit gives the truth a fresh `generation`: two states with
the same generation are the same state. Knows nothing of FAISS, ranking, prompts or models.

    with open_collection(home, "notes", encoder, create=True) as notes, notes.writing():
        notes.add(uri, file_hash, document, chunks)
"""

import json
import os
import sqlite3
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import filelock
import numpy as np
from numpy.typing import NDArray

from ingest.documents import Chunk, Document, Section, chunk_id
from ingest.errors import (
    DamagedStore,
    EncoderMismatch,
    StoreBusy,
    StoreError,
    UnknownCollection,
    UsageError,
)
from ingest.pipeline import Item, Kept
from retrieval import schema, writing
from retrieval.encoders import Encoder, EncoderIdentity, Vectors

TRUTH = "truth.sqlite3"
LOCK_SECONDS = 2.0  # patience with another writer before StoreBusy

_Row = tuple[Any, ...]  # of SQLite values

_FIRST_URI = """(SELECT uri FROM sources WHERE document_id = documents.id
                 ORDER BY sources.exact DESC, sources.number LIMIT 1)"""


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection as a listing shows it; `problem` is "" unless it cannot be read."""

    name: str
    documents: int
    chunks: int
    encoder: str
    bytes: int  # on disk, index included
    problem: str = ""


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """A stored document without its text; `uris` are its sources, oldest first."""

    id: str
    title: str
    uris: tuple[str, ...]
    language: str
    media_type: str
    characters: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Changes:
    """The chunk numbers that came and went between two generations, each ascending."""

    added: NDArray[np.int64]
    removed: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk with what a passage needs to know of its document."""

    rowid: int
    chunk: Chunk
    title: str
    uri: str


def open_collection(
    home: Path, name: str, encoder: Encoder, *, create: bool = False
) -> "Collection":
    """Open a collection, or with `create` make it if there is none of that name.

    Raises:
        UsageError: The name cannot be the name of a collection.
        UnknownCollection: There is none, and `create` is false.
        EncoderMismatch: Its vectors were made by another encoder.
        DamagedStore: SQLite cannot read it.
        StoreError: It cannot be opened or created.
    """
    directory = home / "collections" / checked_name(name)
    if not create:
        require_collection(home, name)
    elif not (directory / TRUTH).exists():
        _create(directory, encoder.identity)
    return Collection(directory, encoder)


def require_collection(home: Path, name: str) -> None:
    """Raise if there is no such collection; needs no encoder, so ask before loading one.

    Raises:
        UsageError: The name cannot be the name of a collection.
        UnknownCollection: There is none of that name.
    """
    name = checked_name(name)
    if not (home / "collections" / name / TRUTH).exists():
        raise UnknownCollection(_unknown(home, name))


def list_collections(home: Path) -> list[CollectionInfo]:
    """Return all collections sorted by name; needs no encoder."""
    return [describe(home / "collections" / name) for name in _names(home)]


class Collection:
    """One open collection; all methods may be called from any thread.

    One connection reads for all threads, one at a time: a read takes milliseconds. Another one
    writes, and readers neither wait for it nor see what it has not committed. Adding and removing
    take the write lock themselves; hold `writing()` around a series of them. It is a `Sink` of
    `ingest.pipeline`.
    """

    def __init__(self, directory: Path, encoder: Encoder) -> None:
        """Open the truth in `directory`; see `open_collection` for the errors."""
        self.directory = directory
        self.name = directory.name
        self.encoder = encoder
        self._path = directory / TRUTH
        self._lock = threading.RLock()
        self._file_lock = filelock.FileLock(directory / "write.lock")
        self._writer: sqlite3.Connection | None = None  # opened when first needed
        self._seen: int | None = None  # SQLite's data_version at the last check of the encoder
        with sqlite_errors(self._path):
            self._reader = connect(self._path)
            try:
                self._migrate()
                check_identity(self.name, _identity(self._reader, self._path), encoder.identity)
            except BaseException:
                self.close()
                raise

    # Sessions

    def close(self) -> None:
        """Close the connections; closing twice is harmless."""
        with self._lock, sqlite_errors(self._path):
            self._reader.close()
            if self._writer is not None:
                self._writer.close()

    def __enter__(self) -> "Collection":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.close()

    @contextmanager
    def writing(self, patience: float = LOCK_SECONDS) -> Iterator[sqlite3.Connection]:
        """Hold the write lock; it may be entered again by the thread that holds it.

        Args:
            patience: Seconds to wait for another writer.

        Yields:
            The connection that writes, in no transaction of its own.

        Raises:
            StoreBusy: Another writer did not finish in that time.
        """
        with holding(self._file_lock, self.name, patience):
            if self._writer is None:
                with sqlite_errors(self._path):
                    self._writer = connect(self._path)
            yield self._writer

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Change the truth in one transaction, which gives it a new generation.

        Raises:
            EncoderMismatch: Another process has changed the collection's encoder.
        """
        with self._transaction() as connection:
            self._check_encoder(connection)
            schema.commit(connection)
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with (
            self.writing() as connection,
            sqlite_errors(self._path),
            schema.transaction(connection),
        ):
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Keep one state of the truth in view, however much is written meanwhile.

        Other threads that use this object for reading wait until the block ends; nested blocks
        share a state.

        Raises:
            EncoderMismatch: Another process has changed the collection's encoder.
        """
        with self._lock, sqlite_errors(self._path):
            if self._reader.in_transaction:
                yield self._reader
                return
            with schema.transaction(self._reader, "BEGIN"):
                (version,) = self._reader.execute("PRAGMA data_version").fetchone()
                if version != self._seen:  # something was committed since
                    self._check_encoder(self._reader)
                    self._seen = version
                yield self._reader

    def _check_encoder(self, connection: sqlite3.Connection) -> None:
        if _identity(connection, self._path) != self.encoder.identity:
            raise EncoderMismatch(
                f"collection {self.name} has been given another encoder meanwhile "
                f"({_meta(connection, self._path, 'encoder')}); open it again with that one"
            )

    # Writing (the `Sink` of an ingest)

    def count_tokens(self, text: str) -> int:
        """Return the number of the encoder's tokens in the text."""
        return self.encoder.count_tokens(text)

    def file_hash(self, uri: str) -> str | None:
        """Return the hash under which the source was last added, None if it never was."""
        row = self._row("SELECT file_hash FROM sources WHERE uri = ?", uri)
        return None if row is None else str(row[0])

    def add_all(self, items: Sequence[Item], *, join_similar: bool = True) -> list[Kept]:
        """Store documents, each as the content of its `uri` instead of what that held before.

        All go in together, unless one source occurs twice among them. A former document goes
        unless another source holds it. A text that another source holds already, or of which a
        stored text says every sentence, is not stored again (nor its title or metadata), unless
        this source held it too and now cuts it into other chunks. Of a document that changed, only
        the chunks whose text changed are embedded.

        Args:
            items: The documents with their chunks.
            join_similar: Whether to look for texts that are nearly the same.

        Returns:
            What was done with each item, in order.

        Raises:
            StoreBusy: Another process is writing the collection.
            SourceError: An item is not valid Unicode; nothing of the call was embedded or stored.
            StoreError: The disk is full or cannot be written; the former documents stay.
        """
        for item in items:
            writing.refuse_broken(item)
        kept: list[Kept] = []
        with self.writing() as connection:
            for group in writing.apart(items):
                try:
                    kept += self._add_group(connection, group, join_similar=join_similar)
                except writing.NotEmbedded:
                    for item in group:
                        kept += self._add_group(connection, [item], join_similar=join_similar)
        return kept

    def add(
        self, uri: str, file_hash: str, document: Document, chunks: Sequence[Chunk]
    ) -> Literal["added", "updated", "moved", "duplicate"]:
        """Store one document and return what was done with it; see `add_all`."""
        return self.add_all([Item(uri, file_hash, document, chunks)])[0].status

    def remove(self, uri: str) -> bool:
        """Forget a source, and its document if no other source holds it; False if unknown."""
        return self.remove_all([uri]) == 1

    def remove_all(self, uris: Iterable[str]) -> int:
        """Forget sources in one transaction and return how many of them were known.

        Their words are overwritten in the tables at once; `compact` clears the last traces and
        gives the space back.
        """
        query = "DELETE FROM sources WHERE uri = ? RETURNING document_id"
        with self.writing() as writer, sqlite_errors(self._path):
            known = [uri for uri in dict.fromkeys(uris) if _knows(writer, uri)]
            if known:
                with self.changing() as connection:
                    for uri in known:
                        (held,) = connection.execute(query, (uri,)).fetchall()
                        writing.settle(connection, held[0])
                    connection.execute("DELETE FROM pending")
        return len(known)

    def compact(self, patience: float = LOCK_SECONDS) -> None:
        """Give the space of what was removed back to the disk and clear all traces of it.

        Merging the lexical index, which else keeps removed words, takes time in proportion to the
        collection (2 s for 100,000 chunks), so call it once after many removals.

        Args:
            patience: Seconds to wait for readers that keep an old state in view. They need what
                the log of writes holds; SQLite empties it when the last of them is closed.

        Raises:
            StoreBusy: Another process is writing, or such a reader did not end in time: all is
                done then but emptying the log.
        """
        with self.writing() as connection, sqlite_errors(self._path):
            connection.execute("DELETE FROM pending")
            connection.execute("INSERT INTO terms (terms) VALUES ('optimize')")
            if connection.execute("PRAGMA auto_vacuum").fetchone() == (0,):  # made by version 1
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("VACUUM")
            connection.executescript("PRAGMA incremental_vacuum")  # `execute` frees but one page
            with _waiting(connection, patience):
                (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreBusy(
                f"collection {self.name} is being read by another program: what was removed is in "
                f"no search, but its traces leave {TRUTH}-wal only when that program ends; close it"
            )

    def _add_group(
        self, connection: sqlite3.Connection, items: Sequence[Item], *, join_similar: bool
    ) -> list[Kept]:
        with sqlite_errors(self._path):
            plans = writing.plan(connection, items, join_similar=join_similar)
            supply = writing.embed(connection, self.encoder, plans)
        key = self.encoder.identity.weights_hash
        with self.changing():
            kept = [writing.write(connection, plan, supply, key) for plan in plans]
            if supply.parked:
                connection.execute("DELETE FROM pending")
        return kept

    # Reading

    @property
    def generation(self) -> str:
        """The name of the present state of the truth; every commit draws a new one."""
        return str(self._one("SELECT generation FROM commits ORDER BY sequence DESC LIMIT 1")[0])

    def changes_since(self, generation: str) -> Changes | None:
        """Return which chunks came and went since that generation, None if the log has lost it.

        What came and went again in between is in neither list.
        """
        with self.reading() as connection:
            row = connection.execute(
                "SELECT sequence FROM commits WHERE generation = ?", (generation,)
            ).fetchone()
            if row is None:
                return None
            net = connection.execute(  # numbers are never used twice: -1, 0 or 1
                "SELECT number, sum(2 * present - 1) AS net FROM changes WHERE sequence > ? "
                "GROUP BY number HAVING net <> 0 ORDER BY number",
                row,
            ).fetchall()
        numbers = np.array(net, dtype=np.int64).reshape(-1, 2)  # (changed chunks, 2)
        return Changes(numbers[numbers[:, 1] > 0, 0], numbers[numbers[:, 1] < 0, 0])

    def forget_changes(self, generation: str) -> None:
        """Drop what the log knows from before that generation; unknown ones drop nothing.

        Call it with the generation that a saved snapshot of the index holds.

        Raises:
            StoreBusy: Another process is writing the collection.
        """
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT sequence FROM commits WHERE generation = ?", (generation,)
            ).fetchone()
            if row is not None:
                connection.execute("DELETE FROM changes WHERE sequence <= ?", row)
                connection.execute("DELETE FROM commits WHERE sequence < ?", row)

    def uris(self) -> list[str]:
        """Return the uris of all sources, in the order in which they came."""
        with self.reading() as connection:
            rows = connection.execute("SELECT uri FROM sources ORDER BY number").fetchall()
        return [uri for (uri,) in rows]

    def uris_of(self, document_id: str) -> list[str]:
        """Return the uris that hold this very text, oldest first."""
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT uri FROM sources WHERE document_id = ? AND exact ORDER BY number",
                (document_id,),
            ).fetchall()
        return [uri for (uri,) in rows]

    def count_documents(self) -> int:
        """Return the number of documents."""
        return int(self._one("SELECT count(*) FROM documents")[0])

    def count_chunks(self) -> int:
        """Return the number of chunks."""
        return int(self._one("SELECT count(*) FROM chunks")[0])

    def document(self, document_id: str) -> Document | None:
        """Return a document with its text, under its oldest source, or None."""
        row = self._row(
            f"SELECT id, {_FIRST_URI}, title, text, language, media_type, metadata, sections "
            "FROM documents WHERE id = ?",
            document_id,
        )
        if row is None:
            return None
        found_id, uri, title, text, language, media_type, metadata, sections = row
        return Document(
            found_id,
            uri,
            title,
            text,
            language,
            media_type,
            metadata=json.loads(metadata),
            sections=tuple(Section(**section) for section in json.loads(sections)),
        )

    def document_of(self, uri: str) -> Document | None:
        """Return the document that a source holds, or None if the source is unknown."""
        row = self._row("SELECT document_id FROM sources WHERE uri = ?", uri)
        return None if row is None else self.document(row[0])

    def metadata_of(self, document_id: str) -> Mapping[str, str]:
        """Return the metadata of a document without reading its text; {} if it is unknown."""
        row = self._row("SELECT metadata FROM documents WHERE id = ?", document_id)
        return {} if row is None else dict(json.loads(row[0]))

    def documents(self) -> list[DocumentInfo]:
        """Return all documents without their texts, in the order of their oldest sources."""
        with self.reading() as connection:
            uris: dict[str, list[str]] = {}
            for document_id, uri in connection.execute(
                "SELECT document_id, uri FROM sources ORDER BY number"
            ):
                uris.setdefault(document_id, []).append(uri)
            rows = connection.execute(
                "SELECT id, title, language, media_type, length(text), "
                "(SELECT count(*) FROM chunks WHERE document_id = documents.id) FROM documents"
            )
            infos = {
                row[0]: DocumentInfo(row[0], row[1], tuple(uris.get(row[0], ())), *row[2:])
                for row in rows
            }
        return [infos[document_id] for document_id in uris]

    def chunks_by_rowid(self, rowids: Iterable[int]) -> dict[int, StoredChunk]:
        """Return the chunks of those row numbers that (still) exist."""
        rows = self._select_by_number(
            f"""SELECT chunks.number, document_id, start, "end", chunks.text, heading, page,
                       place, title, {_FIRST_URI}
                FROM chunks JOIN documents ON documents.id = document_id
                WHERE chunks.number""",
            rowids,
        )
        return {
            number: StoredChunk(
                number,
                Chunk(chunk_id(identity, start, end), identity, start, end, *rest),
                title,
                uri,
            )
            for number, identity, start, end, *rest, title, uri in rows
        }

    def rowids(self) -> NDArray[np.int64]:
        """Return the row numbers of all chunks, ascending."""
        with self.reading() as connection:
            # Unordered, so that SQLite walks the smallest index and none of the vectors.
            rows = connection.execute("SELECT number FROM chunks").fetchall()
        return np.sort(np.array(rows, dtype=np.int64).reshape(-1))

    def vectors(self, rowids: Sequence[int]) -> Vectors:
        """Return the vectors of existing chunks, shape (len(rowids), dimension).

        Raises:
            DamagedStore: One of the chunks has no sound vector.
        """
        rows = self._select_by_number("SELECT number, vector FROM vectors WHERE number", rowids)
        blobs: dict[int, bytes] = dict(rows)
        if not blobs.keys() >= set(rowids):
            raise DamagedStore(_damaged(self._path, "a vector is missing"))
        return self._as_vectors([blobs[rowid] for rowid in rowids])

    def _as_vectors(self, blobs: Sequence[bytes]) -> Vectors:
        dimension = self.encoder.identity.dimension
        if any(len(blob) != 4 * dimension for blob in blobs):
            raise DamagedStore(_damaged(self._path, "a vector has the wrong length"))
        return np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(blobs), dimension)

    def iterate_vectors(self, batch: int) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        """Yield all row numbers, ascending, with their vectors, `batch` rows at a time.

        All batches show one state of the truth; no more than one is in memory. Other threads that
        use this object wait until the iterator ends or is closed.

        Yields:
            Row numbers, shape (rows,), and vectors, shape (rows, dimension).
        """
        with self.reading() as connection:
            cursor = connection.execute("SELECT number, vector FROM vectors ORDER BY number")
            while rows := cursor.fetchmany(batch):
                yield (
                    np.array([number for number, _ in rows], dtype=np.int64),
                    self._as_vectors([blob for _, blob in rows]),
                )

    def count_matches(self, expression: str, *, limit: int | None = None) -> int:
        """Return the number of chunks that match an FTS5 expression.

        Args:
            expression: What to match.
            limit: Where to stop counting (None: nowhere); a million matches take 0.1 s.
        """
        query = "SELECT count(*) FROM (SELECT 1 FROM terms WHERE terms MATCH ? LIMIT ?)"
        return int(self._one(query, expression, -1 if limit is None else limit)[0])

    def match_terms(self, expression: str, *, top_k: int) -> list[tuple[int, float]]:
        """Return (row number, BM25 score) of the chunks that match an FTS5 expression, best first.

        SQLite's bm25() is negative, better being lower; its sign is turned here.
        """
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT rowid, -bm25(terms) AS score FROM terms WHERE terms MATCH ? "
                "ORDER BY score DESC, rowid LIMIT ?",
                (expression, top_k),
            )
            return [(int(rowid), float(score)) for rowid, score in rows]

    def _select_by_number(self, select: str, rowids: Iterable[int]) -> list[_Row]:
        with self.reading() as connection:
            numbers = json.dumps([int(rowid) for rowid in rowids])
            query = f"{select} IN (SELECT value FROM json_each(?))"
            return connection.execute(query, (numbers,)).fetchall()

    def _row(self, query: str, *parameters: object) -> _Row | None:
        with self.reading() as connection:
            row: _Row | None = connection.execute(query, parameters).fetchone()
            return row

    def _one(self, query: str, *parameters: object) -> _Row:
        row = self._row(query, *parameters)
        if row is None:
            raise DamagedStore(_damaged(self._path, "a row is missing"))
        return row

    def _migrate(self) -> None:
        if _meta(self._reader, self._path, "schema") == schema.SCHEMA_VERSION:
            return
        try:
            with self.writing() as connection:
                schema.migrate(connection)
        except LookupError as error:
            raise StoreError(
                f"collection {self.name} was written by another version of Tether; "
                "ingest its documents into a new collection"
            ) from error


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves either the old one or the new one, whole.

    Callers hold a lock, for two writers would share the temporary file.

    Raises:
        OSError: It cannot be written; the old file stays.
    """
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    flush(path.parent)  # a rename is durable once its directory is


def flush(path: Path) -> None:
    """Make a file, or the names in a directory, durable."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def holding(
    lock: filelock.BaseFileLock, name: str, patience: float = LOCK_SECONDS
) -> Iterator[None]:
    """Hold the write lock of a collection of that name.

    Raises:
        StoreBusy: Another writer did not finish within `patience` seconds.
        StoreError: The lock file cannot be written.
    """
    try:
        lock.acquire(timeout=patience)
    except filelock.Timeout as error:
        raise StoreBusy(
            f"another program is writing collection {name}; wait for it to finish"
        ) from error
    except OSError as error:
        raise StoreError(
            f"collection {name} cannot be locked for writing ({error}); "
            f"make {Path(lock.lock_file).parent} writable"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _knows(connection: sqlite3.Connection, uri: str) -> bool:
    query = "SELECT 1 FROM sources WHERE uri = ?"
    return connection.execute(query, (uri,)).fetchone() is not None


def _meta(connection: sqlite3.Connection, path: Path, key: str) -> str:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise DamagedStore(_damaged(path, "a row is missing"))
    return str(row[0])


def _identity(connection: sqlite3.Connection, path: Path) -> EncoderIdentity:
    return EncoderIdentity(
        _meta(connection, path, "encoder"),
        _meta(connection, path, "weights_hash"),
        int(_meta(connection, path, "dimension")),
    )


def identity_rows(identity: EncoderIdentity) -> dict[str, str]:
    """Return the rows of `meta` that name an encoder."""
    return {
        "encoder": identity.name,
        "weights_hash": identity.weights_hash,
        "dimension": str(identity.dimension),
    }


def _create(directory: Path, identity: EncoderIdentity) -> None:
    """Put an empty truth in place in one step, so that a truth without tables is always damage."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(directory / "write.lock", timeout=LOCK_SECONDS):
            if (directory / TRUTH).exists():
                return
            for suffix in ("-wal", "-shm"):  # of a truth that was taken away: it must stay away
                (directory / (TRUTH + suffix)).unlink(missing_ok=True)
            with closing(sqlite3.connect(":memory:")) as connection:
                schema.create(connection, identity_rows(identity))
                connection.commit()
                replace_file(directory / TRUTH, connection.serialize())
    except OSError as error:
        raise StoreError(
            f"collection {directory.name} cannot be created ({error}); "
            f"make {directory} writable with room on its disk"
        ) from error


@contextmanager
def _waiting(connection: sqlite3.Connection, seconds: float) -> Iterator[None]:
    """Let the connection wait so long for the locks of others."""
    (usual,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute(f"PRAGMA busy_timeout = {int(1000 * seconds)}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {usual}")


def connect(path: Path) -> sqlite3.Connection:
    """Connect to an existing database, never creating one."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,  # transactions are begun and ended above, by name
        check_same_thread=False,  # `Collection` lets one thread in at a time
        timeout=10.0,
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # KiB at most: commits stay even, and questions find the upper pages of the tables there.
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")  # what is removed is overwritten
        connection.execute("PRAGMA journal_size_limit = 67108864")  # bytes kept after a checkpoint
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into errors that name the remedy."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        primary = None if code is None else code & 0xFF
        if primary == sqlite3.SQLITE_FULL:
            raise StoreError(
                f"the disk is full, nothing of this document was stored in {path}; "
                "free some space and ingest again"
            ) from error
        if primary == sqlite3.SQLITE_BUSY:
            raise StoreBusy(f"{path} is locked by another program; close it, try again") from error
        if primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise StoreError(
                f"{path} cannot be read or written ({error}); check its permissions and its disk"
            ) from error
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise  # our own mistake, not the file's
        raise DamagedStore(_damaged(path, error)) from error


def _damaged(path: Path, reason: object) -> str:
    return (
        f"{path} is damaged ({reason}); run: tether rebuild --collection {path.parent.name}, "
        "and ingest again what it names as lost"
    )


def _unknown(home: Path, name: str) -> str:
    known = ", ".join(_names(home)) or "none"
    return (
        f"there is no collection {name} (known: {known}); "
        f"make it with: tether ingest PATH --collection {name}"
    )


def checked_name(name: str) -> str:
    """Return the name in NFC, the form in which every file system finds it again."""
    name = unicodedata.normalize("NFC", name)
    allowed = all(unicodedata.category(c)[0] in "LNM" or c in "_-. " for c in name)
    if (
        not allowed
        or not 1 <= len(name) <= 100
        or len(name.encode()) > 255  # what file systems hold
        or name != name.strip()
        or name[0] == "."
        or name[-1] == "."
    ):
        raise UsageError(
            f"{name!r} cannot name a collection; use up to 100 letters, digits, spaces, or _-. "
            "that neither start nor end with a dot or a space"
        )
    return name


def check_identity(name: str, stored: EncoderIdentity, given: EncoderIdentity) -> None:
    """Raise EncoderMismatch unless the encoder given is the one that the collection has."""
    if stored == given:
        return
    what = f"encoder {stored.name}"
    if stored.name == given.name:
        what = f"other weights of {what} ({stored.weights_hash[:12]})"
    raise EncoderMismatch(
        f"collection {name} was built with {what}, not with {given.name} "
        f"({given.weights_hash[:12]}); use {stored.name} again, "
        f"or give the collection the other one: {_reindex(name, given.name)}"
    )


def _reindex(name: str, encoder: str) -> str:
    return f"tether reindex --collection {name} --encoder {encoder}"


def _names(home: Path) -> list[str]:
    return sorted(path.parent.name for path in (home / "collections").glob(f"*/{TRUTH}"))


def describe(directory: Path) -> CollectionInfo:
    """Return a collection as a listing shows it; damage is told, not raised."""
    path = directory / TRUTH
    size = 0
    for file in directory.iterdir():
        with suppress(FileNotFoundError):  # a snapshot or a log may go meanwhile
            size += file.stat().st_size if file.is_file() else 0
    try:
        with sqlite_errors(path), closing(connect(path)) as connection:
            documents, chunks, encoder = connection.execute(
                "SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM chunks), "
                "(SELECT value FROM meta WHERE key = 'encoder')"
            ).fetchone()
    except StoreError as error:
        return CollectionInfo(directory.name, 0, 0, "", size, problem=str(error))
    return CollectionInfo(directory.name, documents, chunks, encoder, size)
