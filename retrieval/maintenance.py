"""Operating a collection: prove it sound, mend it, carry it elsewhere, give it another encoder.

    check              what is wrong with the truth and its index; () if nothing is
    rebuild            mends what can be mended from what is left, and names what is lost
    export_collection  one consistent file of a collection, while writers go on
    import_collection  puts such a file in place; it comes from a stranger until it is proven sound
    reindex            new vectors of another encoder beside the old ones, then one switch
    clear_traces       what documents that were removed left in the files
    delete_collection  all of it, for good

Each holds the write lock, an export excepted; readers go on meanwhile. A truth is only ever
replaced in one step, so that a kill leaves the old one or the new one, whole. Knows nothing of
ranking, files to ingest, or commands.
"""

import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import sqlite3
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import filelock
import numpy as np
from numpy.typing import NDArray

from ingest.chunking import split
from ingest.documents import Chunk, Document, Section, content_id
from ingest.errors import DamagedStore, StoreBusy, StoreError, UsageError
from retrieval import duplicates, schema
from retrieval.encoders import Encoder, EncoderIdentity, Vectors
from retrieval.index import DenseIndex, verify
from retrieval.schema import transaction
from retrieval.store import (
    LOCK_SECONDS,
    TRUTH,
    Collection,
    CollectionInfo,
    check_identity,
    checked_name,
    connect,
    describe,
    flush,
    holding,
    identity_rows,
    open_collection,
    require_collection,
    sqlite_errors,
)
from retrieval.terms import index_terms
from retrieval.writing import chunking_of, embedded_text, indexed_text, settle

EXPORT_FORMAT = 1
MANIFEST = "manifest.json"
_SLICE = 512  # chunks that are embedded and committed together
_UNIT = 1e-3  # how far from 1 the length of a vector may be
_IDENTITY = ("encoder", "weights_hash", "dimension")  # keys of `meta`
_NEXT = "next_"  # before these keys: the encoder of a reindex that has not ended
_VECTORS_NEXT = """CREATE TABLE vectors_next (
    number INTEGER PRIMARY KEY REFERENCES chunks (number) ON DELETE CASCADE,
    vector BLOB NOT NULL
) STRICT"""

_Row = tuple[Any, ...]  # of SQLite values

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a collection; a "warning" makes no search wrong."""

    severity: Literal["error", "warning"]
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did, a line each, and the uris that have to be ingested again."""

    mended: tuple[str, ...]
    lost: tuple[str, ...]
    damaged_file: Path | None = None  # the truth as it was, if something of it was lost


def check(home: Path, name: str) -> tuple[Finding, ...]:
    """Examine all of a collection: every page, document, chunk, vector, term and index file.

    Nothing is sampled: it takes about as long as storing the chunks took, embedding excepted.

    Returns:
        What is wrong; a sound collection gives ().

    Raises:
        UnknownCollection: There is none of that name.
        StoreBusy: An ingest is writing it.
        StoreError: It cannot be read or locked, or a newer Tether wrote it.
    """
    require_collection(home, name)
    directory = _directory(home, name)
    remedy = f"run: tether rebuild --collection {directory.name}"
    with _writing(directory):
        _migrate(directory / TRUTH)
        found = _examine_file(directory / TRUTH, remedy)
        problems = verify(directory)
    return (*found, *(Finding("error", f"the index: {problem}", remedy) for problem in problems))


def rebuild(home: Path, name: str, encoder: Encoder) -> Rebuilt:
    """Mend a collection, so that `check` finds nothing wrong with it.

    A sound truth stays and gets a new index. Otherwise a fresh truth is made of all that can still
    be read and proves right: vectors that are missing or wrong are embedded again, documents whose
    chunks do not fit are cut again, and documents that are not what their id says are left out.

    Raises:
        UnknownCollection: There is none of that name.
        EncoderMismatch: Its vectors were made by another encoder.
        StoreBusy: An ingest is writing it.
        StoreError: It cannot be written, or a newer Tether wrote it.
    """
    require_collection(home, name)
    directory = _directory(home, name)
    rebuilt = Rebuilt((), ())
    with _writing(directory):
        _migrate(directory / TRUTH)
        if any(found.severity == "error" for found in _examine_file(directory / TRUTH, "")):
            try:
                rebuilt = _replace_by_what_is_left(directory, encoder)
            except OSError as error:
                raise StoreError(
                    f"collection {directory.name} cannot be rebuilt ({error}); "
                    f"make {directory} writable with room on its disk"
                ) from error
    with open_collection(home, name, encoder) as collection:
        DenseIndex(collection).rebuild()
    return Rebuilt(
        (*rebuilt.mended, "the index was built anew"), rebuilt.lost, rebuilt.damaged_file
    )


# Examining


class _Wrongs:
    """Counts what is wrong by kind and keeps the first example of each."""

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy
        self._found: dict[tuple[Literal["error", "warning"], str], tuple[int, str]] = {}

    def add(
        self,
        kind: str,
        example: object = "",
        severity: Literal["error", "warning"] = "error",
        count: int = 1,
    ) -> None:
        before, first = self._found.get((severity, kind), (0, str(example)))
        self._found[severity, kind] = (before + count, first)

    def findings(self) -> list[Finding]:
        return [
            Finding(
                severity,
                f"{kind} ({count}{', first: ' + _printable(first) if first else ''})",
                self._remedy,
            )
            for (severity, kind), (count, first) in self._found.items()
        ]


def _examine_file(path: Path, remedy: str) -> list[Finding]:
    wrongs = _Wrongs(remedy)
    try:
        with sqlite_errors(path), closing(connect(path)) as connection:
            _examine(connection, wrongs)
    except DamagedStore as error:
        wrongs.add("SQLite cannot read the truth", error.__cause__)
    return wrongs.findings()


def _examine(connection: sqlite3.Connection, wrongs: _Wrongs) -> None:
    """Add all that is wrong; of a schema that is not ours, nothing but the schema is read."""
    strange = sorted(set(_schema(connection).items()) ^ set(_our_schema(connection).items()))
    if strange:
        wrongs.add("tables, indexes or triggers are not those of Tether", strange[0][0])
        return
    for (message,) in connection.execute("PRAGMA integrity_check"):
        if message != "ok":
            wrongs.add("SQLite finds the file inconsistent", message.splitlines()[0])
    for table, rowid, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        wrongs.add(f"rows of {table} point to no row of {parent}", rowid)
    _examine_log(connection, wrongs)
    dimension = _examine_meta(connection, wrongs)
    _examine_terms(connection, wrongs)
    for document in connection.execute("SELECT id, title, metadata, sections, text FROM documents"):
        _examine_document(connection, document, dimension, wrongs)


def _schema(connection: sqlite3.Connection) -> dict[str, str]:
    rows = connection.execute("SELECT type || ' ' || name, sql FROM sqlite_master")
    renamed = ('CREATE TABLE "vectors"', "CREATE TABLE vectors")  # by a reindex
    return {name: (sql or "").replace(*renamed) for name, sql in rows}


def _our_schema(connection: sqlite3.Connection) -> dict[str, str]:
    with closing(sqlite3.connect(":memory:")) as fresh:
        schema.create(fresh, {})
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'vectors_next'").fetchone():
            fresh.execute(_VECTORS_NEXT)
        return _schema(fresh)


def _examine_meta(connection: sqlite3.Connection, wrongs: _Wrongs) -> int:
    """Return the dimension of the vectors, 0 if `meta` does not tell it."""
    meta: dict[str, str] = dict(connection.execute("SELECT key, value FROM meta"))
    if meta.get("schema") != schema.SCHEMA_VERSION:
        wrongs.add("the version of the schema is not the present one", meta.get("schema"))
    if not meta.get("encoder") or not meta.get("weights_hash"):
        wrongs.add("the encoder is not named")
    dimension = meta.get("dimension", "")
    if not (dimension.isascii() and dimension.isdigit() and 0 < int(dimension[:9]) < 1 << 20):
        wrongs.add("the dimension of the vectors is not known", dimension)
        return 0
    return int(dimension)


def _examine_log(connection: sqlite3.Connection, wrongs: _Wrongs) -> None:
    """The log of commits must agree with the chunks, and interrupted work is told."""
    if connection.execute("SELECT 1 FROM commits").fetchone() is None:
        wrongs.add("the log of commits is empty")
    for (number,) in connection.execute(
        "SELECT number FROM changes WHERE sequence NOT IN (SELECT sequence FROM commits)"
    ):
        wrongs.add("changes belong to no commit", f"chunk {number}")
    for (number,) in connection.execute(
        # numbers are never used twice: what came and has not gone is there
        "SELECT number FROM changes GROUP BY number "
        "HAVING (sum(2 * present - 1) > 0) <> (number IN (SELECT number FROM chunks))"
    ):
        wrongs.add("changes do not agree with the chunks", f"chunk {number}")
    for table, what in (
        ("pending", "vectors of an interrupted ingest wait for it to go on"),
        ("vectors_next", "vectors of an interrupted reindex wait for it to go on"),
    ):
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            if count:
                wrongs.add(what, severity="warning", count=count)


def _examine_terms(connection: sqlite3.Connection, wrongs: _Wrongs) -> None:
    try:
        connection.execute("INSERT INTO terms (terms) VALUES ('integrity-check')")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        wrongs.add("the lexical index is inconsistent", error)
    for (number,) in connection.execute(
        "SELECT rowid FROM terms WHERE rowid NOT IN (SELECT number FROM chunks)"
    ):
        wrongs.add("terms belong to no chunk", number)


def _examine_document(
    connection: sqlite3.Connection, document: _Row, dimension: int, wrongs: _Wrongs
) -> None:
    identity, title, metadata, sections, text = document
    source = connection.execute("SELECT uri FROM sources WHERE document_id = ?", (identity,))
    (uri,) = source.fetchone() or ("",)
    if not uri:
        wrongs.add("documents have no source", identity)
    where = uri or identity
    if content_id(text) != identity or not _readable_json(metadata, sections):
        wrongs.add("documents are not what their id says", where)
    chunks = connection.execute(
        """SELECT start, "end", heading, text, vector, words FROM chunks
           LEFT JOIN vectors ON vectors.number = chunks.number
           LEFT JOIN terms ON terms.rowid = chunks.number WHERE document_id = ?""",
        (identity,),
    ).fetchall()
    for start, end, heading, cut, _, words in chunks:
        if not 0 <= start < end or text[start:end] != cut:
            wrongs.add("chunks do not stand in their document", f"{where} {start}-{end}")
        if words != index_terms(indexed_text(title, heading, cut)):
            wrongs.add("the terms of chunks are not those of their text", f"{where} {start}-{end}")
    if not _covered(text, (row[:2] for row in chunks)):
        wrongs.add("parts of documents are in no chunk", where)
    _examine_vectors([row[4] for row in chunks], dimension, where, wrongs)


def _examine_vectors(
    vectors: list[bytes | None], dimension: int, where: str, wrongs: _Wrongs
) -> None:
    present = [vector for vector in vectors if vector is not None]
    if missing := len(vectors) - len(present):
        wrongs.add("chunks have no vector", where, count=missing)
    measured = [vector for vector in present if len(vector) == 4 * dimension]
    if strange := len(present) - len(measured):
        wrongs.add("vectors have the wrong length", where, count=strange)
    if unsound := len(measured) - int(_are_units(measured, dimension).sum()):
        wrongs.add("vectors are not finite unit vectors", where, count=unsound)


def _are_units(blobs: list[bytes], dimension: int) -> NDArray[np.bool_]:
    """Return for each vector of the right length whether it is finite and of length 1."""
    matrix = np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(blobs), dimension)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(matrix.astype(np.float64), axis=1)
        units: NDArray[np.bool_] = np.abs(lengths - 1) <= _UNIT  # false for nan and infinity
        return units


def _covered(text: str, spans: Iterable[tuple[int, int]]) -> bool:
    """Return whether every character that is no space stands in a span."""
    reached = 0
    for start, end in sorted(spans):
        if start > reached and text[reached:start].strip():
            return False
        reached = max(reached, end)
    return not text[reached:].strip()


def _readable_json(metadata: str, sections: str) -> bool:
    try:
        located = [Section(**section) for section in json.loads(sections)]
        return isinstance(json.loads(metadata), dict) and all(
            isinstance(section.start, int) for section in located
        )
    except (ValueError, TypeError, RecursionError):
        return False


# Mending


def _replace_by_what_is_left(directory: Path, encoder: Encoder) -> Rebuilt:
    path = directory / TRUTH
    mended: list[str] = []
    with _workshop(directory, ".rebuild-") as folder:
        fresh_path = folder / "fresh.sqlite3"
        with sqlite_errors(path), closing(_created(fresh_path, encoder.identity)) as fresh:
            fresh.execute("BEGIN")
            lost = _copy(path, fresh, encoder.identity, mended)
            _cut_again(fresh, encoder, mended)
            _embed_missing(fresh, encoder, mended)
            _index(fresh)
            _start_log_anew(fresh)
            fresh.execute("COMMIT")
        kept = _keep_damaged(path) if lost or not _readable_whole(path) else None
        _put_in_place(fresh_path, directory)
    return Rebuilt(tuple(mended), tuple(lost), kept)


def _copy(
    path: Path, fresh: sqlite3.Connection, identity: EncoderIdentity, mended: list[str]
) -> list[str]:
    """Copy what can be read and is right; return the uris whose documents are not among it."""
    try:
        with sqlite_errors(path), closing(connect(path)) as damaged:
            same_encoder = _same_encoder(path.parent.name, damaged, identity)
            _copy_chunking(damaged, fresh)
            _copy_documents(damaged, fresh)
            lost = _copy_sources(damaged, fresh)
            _copy_chunks(damaged, fresh)
            if same_encoder:
                _copy_vectors(damaged, fresh, identity.dimension)
            # numbers that are gone are not used again either
            for table, last in _readable(damaged, "sqlite_sequence", "name, seq"):
                fresh.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
                fresh.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, last))
    except DamagedStore as error:
        mended.append(f"nothing could be read ({error.__cause__}): ingest all documents again")
        return []
    if lost:
        mended.append(f"{len(lost)} sources lost their documents: ingest them again")
    return lost


def _same_encoder(name: str, damaged: sqlite3.Connection, identity: EncoderIdentity) -> bool:
    """Return whether the vectors are this encoder's; False if nothing tells.

    Raises:
        EncoderMismatch: They are another's.
    """
    try:
        meta = dict(damaged.execute("SELECT key, value FROM meta"))
    except sqlite3.DatabaseError:
        return False
    if not meta.get("encoder") or not meta.get("weights_hash"):
        return False
    stored = EncoderIdentity(meta["encoder"], meta["weights_hash"], identity.dimension)
    check_identity(name, stored, identity)
    return True


def _copy_chunking(damaged: sqlite3.Connection, fresh: sqlite3.Connection) -> None:
    with suppress(sqlite3.DatabaseError):
        rows = damaged.execute("SELECT key, value FROM meta WHERE key = 'chunking'").fetchall()
        fresh.executemany("INSERT INTO meta VALUES (?, ?)", rows)


def _copy_documents(damaged: sqlite3.Connection, fresh: sqlite3.Connection) -> None:
    columns = "id, title, language, media_type, metadata, sections, text"
    for row in _readable(damaged, "documents", columns, step=20):  # texts may be long
        identity, *_, metadata, sections, text = row
        sound = all(isinstance(value, str) for value in row) and content_id(text) == identity
        if sound and _readable_json(metadata, sections):
            fresh.execute("INSERT OR IGNORE INTO documents VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _copy_sources(damaged: sqlite3.Connection, fresh: sqlite3.Connection) -> list[str]:
    lost = []
    for row in _readable(damaged, "sources", "number, uri, file_hash, document_id, exact"):
        _, uri, file_hash, document_id, _ = row
        known = fresh.execute("SELECT 1 FROM documents WHERE id = ?", (document_id,)).fetchone()
        if known and isinstance(uri, str) and isinstance(file_hash, str):
            fresh.execute("INSERT OR IGNORE INTO sources VALUES (?, ?, ?, ?, ?)", row)
        else:
            lost.append(str(uri))
    fresh.execute("DELETE FROM documents WHERE id NOT IN (SELECT document_id FROM sources)")
    for (document_id,) in fresh.execute("SELECT id FROM documents").fetchall():
        settle(fresh, document_id)  # what only similar sources hold is read again
    return lost


def _copy_chunks(damaged: sqlite3.Connection, fresh: sqlite3.Connection) -> None:
    """Copy the chunks that stand in their documents; those of one are mostly neighbours."""
    columns = 'number, document_id, start, "end", heading, page, text, place'
    last, text = None, ""
    for row in _readable(damaged, "chunks", columns):
        _, document_id, start, end, heading, page, cut, place = row
        if document_id != last:
            found = fresh.execute("SELECT text FROM documents WHERE id = ?", (document_id,))
            last, (text,) = document_id, found.fetchone() or ("",)
        whole = isinstance(start, int) and isinstance(end, int) and 0 <= start < end
        located = isinstance(page, int | None) and isinstance(heading, str)
        if whole and located and text[start:end] == cut != "" and isinstance(place, str):
            fresh.execute(
                f"INSERT OR IGNORE INTO chunks ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row
            )


def _copy_vectors(damaged: sqlite3.Connection, fresh: sqlite3.Connection, dimension: int) -> None:
    for number, vector in _readable(damaged, "vectors", "number, vector"):
        right_length = isinstance(vector, bytes) and len(vector) == 4 * dimension
        if right_length and _are_units([vector], dimension).all():
            fresh.execute(
                "INSERT INTO vectors SELECT number, ? FROM chunks WHERE number = ?",
                (vector, number),
            )


def _cut_again(fresh: sqlite3.Connection, encoder: Encoder, mended: list[str]) -> None:
    """Cut the documents anew that have lost chunks, by the sizes that were used last."""
    count, options = 0, chunking_of(fresh)
    query = "SELECT language, media_type, sections, text FROM documents WHERE id = ?"
    for (identity,) in fresh.execute("SELECT id FROM documents").fetchall():
        language, media_type, sections, text = fresh.execute(query, (identity,)).fetchone()
        spans = fresh.execute('SELECT start, "end" FROM chunks WHERE document_id = ?', (identity,))
        if _covered(text, spans):
            continue
        count += 1
        located = tuple(Section(**section) for section in json.loads(sections))
        document = Document(identity, "", "", text, language, media_type, sections=located)
        fresh.execute("DELETE FROM chunks WHERE document_id = ?", (identity,))
        fresh.executemany(
            'INSERT INTO chunks (document_id, start, "end", heading, page, place, text) '
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (identity, cut.start, cut.end, cut.heading, cut.page, cut.place, cut.text)
                for cut in split(document, encoder.count_tokens, options)
            ),
        )
    if count:
        mended.append(f"{count} documents were cut into chunks anew")


def _embed_missing(fresh: sqlite3.Connection, encoder: Encoder, mended: list[str]) -> None:
    count = sum(
        _put(fresh, "vectors", numbers, encoder.encode_passages(texts))
        for numbers, texts in _without_vectors(fresh, "vectors")
    )
    if count:
        mended.append(f"{count} chunks were embedded again")


def _index(fresh: sqlite3.Connection) -> None:
    """Fill the tables that all follows from the texts: terms and fingerprints."""
    rows = fresh.execute(
        "SELECT number, title, heading, chunks.text FROM chunks "
        "JOIN documents ON documents.id = document_id"
    )
    fresh.executemany(
        "INSERT INTO terms (rowid, words) VALUES (?, ?)",
        ((row[0], index_terms(indexed_text(*row[1:]))) for row in rows),
    )
    for document_id, text in fresh.execute("SELECT id, text FROM documents"):
        fresh.executemany(
            "INSERT INTO fingerprints (document_id, band) VALUES (?, ?)",
            ((document_id, band) for band in duplicates.bands(text)),
        )


def _start_log_anew(connection: sqlite3.Connection) -> None:
    """Make every snapshot of an index void: its generation is in the log no more."""
    connection.execute("DELETE FROM changes")
    connection.execute("DELETE FROM commits")
    schema.commit(connection)


def _readable(
    connection: sqlite3.Connection, table: str, columns: str, *, step: int = 1000
) -> Iterator[_Row]:
    """Yield what SQLite can still read of a table, in the order of its row numbers.

    `step` numbers are read at a time.
    """
    select = f"SELECT {columns} FROM {table}"
    try:
        connection.execute(f"{select} LIMIT 0")
    except sqlite3.DatabaseError:  # the table is not there
        return
    for first in range(1, _last_row(connection, table) + 1, step):
        yield from _readable_between(connection, select, first, first + step - 1)


def _readable_between(
    connection: sqlite3.Connection, select: str, first: int, last: int
) -> Iterator[_Row]:
    """Halve a range of rows that cannot be read until the bad rows stand alone."""
    try:
        rows = connection.execute(
            f"{select} WHERE rowid BETWEEN ? AND ? ORDER BY rowid", (first, last)
        ).fetchall()
    except sqlite3.DatabaseError:
        if first < last:
            middle = (first + last) // 2
            yield from _readable_between(connection, select, first, middle)
            yield from _readable_between(connection, select, middle + 1, last)
        return
    yield from rows


def _last_row(connection: sqlite3.Connection, table: str) -> int:
    for query in (f"SELECT max(rowid) FROM {table}", "SELECT max(seq) FROM sqlite_sequence"):
        with suppress(sqlite3.DatabaseError, TypeError, ValueError):
            return int(connection.execute(query).fetchone()[0] or 0)
    return 0


def _readable_whole(path: Path) -> bool:
    try:
        with closing(connect(path)) as connection:
            return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))
    except sqlite3.DatabaseError:
        return False


def _keep_damaged(path: Path) -> Path:
    """Copy a truth beside itself as it is, so that other tools may still find more in it."""
    kept = path.with_name(f"truth.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    for suffix in ("", "-wal"):  # what was committed last may stand in the log alone
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{path}{suffix}", f"{kept}{suffix}")
            flush(Path(f"{kept}{suffix}"))
    return kept


# Moving


def export_collection(home: Path, name: str, file: Path, *, replace: bool = False) -> None:
    """Write a collection as it is now into one file, while writers go on.

    The file is a zip of `manifest.json` and `truth.sqlite3`; the index is built anew elsewhere.

    Raises:
        UnknownCollection: There is none of that name.
        UsageError: The file exists and `replace` is false.
        StoreError: The collection cannot be read, a newer Tether wrote it, or the file cannot be
            written.
    """
    require_collection(home, name)
    if file.exists() and not replace:
        raise UsageError(f"{file} exists already; choose another name, or give --force")
    path = _directory(home, name) / TRUTH
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=file.parent) as folder:
            truth, packed = Path(folder) / TRUTH, Path(folder) / "packed"
            with sqlite_errors(path):
                manifest = _snapshot(path, truth)
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                archive.writestr(MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=2))
                archive.write(truth, TRUTH)
            flush(packed)
            os.replace(packed, file)
            flush(file.parent)
    except OSError as error:
        raise StoreError(
            f"{file} cannot be written ({error}); choose a folder that is writable and has room"
        ) from error


def import_collection(
    home: Path, file: Path, name: str | None = None, *, replace: bool = False
) -> CollectionInfo:
    """Put an exported collection in place, under its own name or another.

    The file may come from anyone: it is unpacked within bounds, compared with the hash and the
    tables that it must have, and examined like `check` does, before it is put in place in one step.

    Raises:
        UsageError: There is a collection of that name and `replace` is false; or no such name can
            be given.
        StoreError: The file is not a sound export, or there is no room for it.
        StoreBusy: The collection to be replaced is being written, or another import is running.
    """
    collections = home / "collections"
    try:
        collections.mkdir(parents=True, exist_ok=True)
        with _importing(collections), _workshop(collections, ".import-") as folder:
            truth = folder / "incoming.sqlite3"
            manifest = _unpack(file, truth)
            directory = _directory(home, name or str(manifest["name"]))
            _refuse_existing(directory, replace=replace)
            _prove(file, truth, manifest)
            directory.mkdir(exist_ok=True)
            with _writing(directory), sqlite_errors(directory / TRUTH):
                _refuse_existing(directory, replace=replace)  # one may have come meanwhile
                _put_in_place(truth, directory)
    except OSError as error:
        raise StoreError(
            f"{file} cannot be imported ({error}); check the file, and that {home} is writable "
            "and has room"
        ) from error
    return describe(directory)


def _refuse_existing(directory: Path, *, replace: bool) -> None:
    if (directory / TRUTH).exists() and not replace:
        raise UsageError(
            f"there is a collection {directory.name} already; "
            "give another name, or --force to replace it"
        )


def _snapshot(path: Path, copy: Path) -> dict[str, Any]:
    """Copy one state of a truth and describe it."""
    with closing(connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        _refuse_newer(connection, path)
        with suppress(LookupError, TypeError):  # whoever imports it will say what is wrong
            schema.migrate(connection)
        connection.execute("DELETE FROM pending")
        _forget_next(connection)
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        counts = {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("documents", "sources", "chunks")
        }
    return {
        "format": EXPORT_FORMAT,
        "tether": _version(),
        "name": path.parent.name,
        **{key: meta.get(key, "") for key in _IDENTITY},
        **counts,
        "bytes": copy.stat().st_size,
        "sha256": _sha256(copy),
    }


def _version() -> str:
    try:
        return importlib.metadata.version("tether")
    except importlib.metadata.PackageNotFoundError:  # run from a folder, never installed
        return "unknown"


def _unpack(file: Path, truth: Path) -> Mapping[str, Any]:
    """Write the truth of an export to a file and return the manifest, which must fit it.

    Names in the archive are compared and never used, so nothing can leave the folder.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = {member.filename: member for member in archive.infolist()}
            if len(archive.infolist()) != 2 or set(members) != {MANIFEST, TRUTH}:
                raise ValueError("it holds other files")
            manifest = json.loads(_bounded(archive, members[MANIFEST], 1 << 16))
            _check_manifest(manifest)
            if not 0 < manifest["bytes"] <= _bound(members[TRUTH], truth):
                raise ValueError("it would fill the disk")
            with archive.open(members[TRUTH]) as packed, truth.open("wb") as unpacked:
                digest = _copy_bounded(packed, unpacked, manifest["bytes"])
            if digest != manifest["sha256"]:
                raise ValueError("its content does not have the hash it should have")
    except OSError:
        raise
    except Exception as error:  # whatever a hostile archive makes its reader raise
        raise _refusal(file, error) from error
    return dict(manifest)


def _check_manifest(manifest: object) -> None:
    expected: dict[str, type] = {"format": int, "name": str, "bytes": int, "sha256": str}
    expected |= {key: str for key in _IDENTITY}
    if not isinstance(manifest, dict):
        raise ValueError("its manifest is no object")
    for key, kind in expected.items():
        if type(manifest.get(key)) is not kind:
            raise ValueError(f"its manifest has no {key}")
    if manifest["format"] != EXPORT_FORMAT:
        raise ValueError(f"it has format {manifest['format']}, not {EXPORT_FORMAT}")


def _bound(member: zipfile.ZipInfo, place: Path) -> int:
    """Return how many bytes a member may unpack to: truths shrink to a tenth, not a hundredth."""
    return min(100 * member.compress_size + (1 << 24), shutil.disk_usage(place.parent).free)


def _bounded(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    with archive.open(member) as packed:
        data = packed.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{member.filename} is too long")
    return data


def _copy_bounded(source: IO[bytes], target: IO[bytes], limit: int) -> str:
    """Copy exactly `limit` bytes, flush them to the disk, and return their SHA-256."""
    digest, copied = hashlib.sha256(), 0
    while data := source.read(min(1 << 20, limit + 1 - copied)):
        copied += len(data)
        if copied > limit:
            break
        digest.update(data)
        target.write(data)
    if copied != limit:
        raise ValueError("its truth is longer or shorter than it should be")
    target.flush()
    os.fsync(target.fileno())
    return digest.hexdigest()


def _prove(file: Path, truth: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a truth that is not in all respects one of ours; then draw a generation for it."""
    wrongs = _Wrongs("")
    try:
        # Nothing of the file runs: until its schema is known to be ours, only that is read.
        with closing(sqlite3.connect(truth, isolation_level=None)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute("PRAGMA foreign_keys = ON")
            _examine(connection, wrongs)
            if findings := [one for one in wrongs.findings() if one.severity == "error"]:
                raise ValueError(findings[0].what)
            if connection.execute("PRAGMA page_size").fetchone() != (4096,):
                raise ValueError("its pages have another size")
            meta = dict(connection.execute("SELECT key, value FROM meta"))
            if any(meta[key] != manifest[key] for key in _IDENTITY):
                raise ValueError("its manifest names another encoder")
            connection.execute("BEGIN")
            connection.execute("DELETE FROM pending")
            _forget_next(connection)
            _start_log_anew(connection)
            connection.execute("COMMIT")
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        raise _refusal(file, error) from error


def _refusal(file: Path, reason: object) -> StoreError:
    return StoreError(
        f"{file} is not a sound export of Tether ({_printable(str(reason))}); export it again"
    )


# Another encoder


def reindex(
    home: Path,
    name: str,
    encoder: Encoder,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Give a collection the vectors of another encoder; searches use the old ones until the end.

    What was embedded is committed slice by slice: a killed reindex goes on where it stopped. The
    switch is one transaction.

    Args:
        home: Tether's home folder.
        name: The collection.
        encoder: The encoder that the collection will have.
        on_progress: Called with the chunks that are done and the chunks in all.

    Returns:
        How many chunks were embedded.

    Raises:
        UnknownCollection: There is none of that name.
        StoreBusy: An ingest is writing it.
        StoreError: It cannot be written, or a newer Tether wrote it; the old vectors stay.
    """
    require_collection(home, name)
    directory = _directory(home, name)
    path = directory / TRUTH
    embedded = 0
    with _writing(directory), sqlite_errors(path):
        _migrate(path)
        with closing(connect(path)) as connection:
            wanted = identity_rows(encoder.identity)
            meta = dict(connection.execute("SELECT key, value FROM meta"))
            if any(meta.get(key) != value for key, value in wanted.items()):
                with transaction(connection):
                    _begin_next(connection, meta, wanted)
                embedded = _fill_next(connection, encoder, on_progress)
                # Old vectors tell no more than the texts: overwriting them would fill the log.
                connection.execute("PRAGMA secure_delete = OFF")
                with transaction(connection):
                    _switch(connection, wanted)
            else:
                with transaction(connection):
                    _forget_next(connection)
            # The old vectors' pages go back to the disk, and the log of writes is emptied.
            connection.execute("PRAGMA incremental_vacuum").fetchall()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with open_collection(home, name, encoder) as collection:
        DenseIndex(collection).rebuild()
    return embedded


def _begin_next(
    connection: sqlite3.Connection, meta: Mapping[str, str], wanted: Mapping[str, str]
) -> None:
    """Go on with the vectors that are there if they are of the wanted encoder, else begin."""
    begun = {key: meta.get(_NEXT + key) for key in wanted}
    if begun != wanted:
        _forget_next(connection)
        connection.execute(_VECTORS_NEXT)
        connection.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            ((_NEXT + key, value) for key, value in wanted.items()),
        )


def _fill_next(
    connection: sqlite3.Connection,
    encoder: Encoder,
    on_progress: Callable[[int, int], None] | None,
) -> int:
    (total,) = connection.execute("SELECT count(*) FROM chunks").fetchone()
    (done,) = connection.execute("SELECT count(*) FROM vectors_next").fetchone()
    embedded = 0
    for numbers, texts in _without_vectors(connection, "vectors_next"):
        vectors = encoder.encode_passages(texts)
        with transaction(connection):
            embedded += _put(connection, "vectors_next", numbers, vectors)
        if on_progress is not None:
            on_progress(done + embedded, total)
    return embedded


def _switch(connection: sqlite3.Connection, wanted: Mapping[str, str]) -> None:
    """Exchange tables by name: copying the rows would write them all again."""
    connection.execute("DROP TABLE vectors")
    connection.execute("ALTER TABLE vectors_next RENAME TO vectors")
    connection.executemany(
        "UPDATE meta SET value = ? WHERE key = ?", ((value, key) for key, value in wanted.items())
    )
    connection.execute("DELETE FROM pending")  # these are the old encoder's
    _forget_next(connection)
    _start_log_anew(connection)


def _forget_next(connection: sqlite3.Connection) -> None:
    connection.execute("DROP TABLE IF EXISTS vectors_next")
    connection.executemany("DELETE FROM meta WHERE key = ?", ((_NEXT + key,) for key in _IDENTITY))


# Deleting


def clear_traces(collection: Collection) -> str:
    """Clear what removed documents left in a collection's files, and give the space back.

    To be called while writing, once after many removals.

    Returns:
        What is left in a file while a reader is in the way, and until when; "" if nothing is. The
        documents are out all the same.
    """
    DenseIndex(collection).forget_removed()
    try:
        collection.compact()
    except StoreBusy as busy:
        return str(busy)
    return ""


def delete_collection(home: Path, name: str) -> None:
    """Remove a collection with all its documents; programs that have it open still see them.

    Raises:
        UsageError: The name cannot be the name of a collection.
        UnknownCollection: There is none of that name.
        StoreBusy: Another program is writing it.
        StoreError: It cannot be removed.
    """
    require_collection(home, name)
    directory = _directory(home, name)
    with _writing(directory):
        try:
            # First the log, then the truth: a later truth must never find the log of this one.
            for suffix in ("-wal", "-shm", ""):
                (directory / (TRUTH + suffix)).unlink(missing_ok=True)
            flush(directory)
            shutil.rmtree(directory)
        except OSError as error:
            raise StoreError(
                f"collection {name} cannot be removed ({error}); close the programs that use it, "
                f"and make {directory} writable"
            ) from error


# Shared


def _directory(home: Path, name: str) -> Path:
    return home / "collections" / checked_name(name)


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Hold the write lock of a collection that is not open (its encoder may not be at hand)."""
    with holding(filelock.FileLock(directory / "write.lock"), directory.name):
        yield


@contextmanager
def _workshop(folder: Path, prefix: str) -> Iterator[Path]:
    """Lend an empty folder, and clear those that killed runs left; the caller holds a lock."""
    for left in folder.glob(prefix + "*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder) as lent:
        yield Path(lent)


@contextmanager
def _importing(collections: Path) -> Iterator[None]:
    """Let one import at a time into a home: each needs room for two truths as it is."""
    try:
        with filelock.FileLock(collections.with_name("import.lock"), timeout=LOCK_SECONDS):
            yield
    except filelock.Timeout as error:
        raise StoreBusy("another import is running; wait for it to finish") from error


def _created(path: Path, identity: EncoderIdentity) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    schema.create(connection, identity_rows(identity))
    return connection


def _migrate(path: Path) -> None:
    """Bring an older truth up to date; one that cannot be read is left to those who examine it.

    Raises:
        StoreError: A newer Tether wrote it.
    """
    with suppress(sqlite3.DatabaseError, LookupError, TypeError), closing(connect(path)) as old:
        _refuse_newer(old, path)
        schema.migrate(old)


def _refuse_newer(connection: sqlite3.Connection, path: Path) -> None:
    """Leave a truth alone of which we do not know all: mending it would lose what we do not know.

    Raises:
        StoreError: A newer Tether wrote it.
    """
    if schema.is_newer(connection):
        raise StoreError(
            f"collection {path.parent.name} was written by a newer Tether, and stays as it is; "
            "use that one, or update this one"
        )


def _without_vectors(
    connection: sqlite3.Connection, table: str
) -> Iterator[tuple[list[int], list[str]]]:
    """Yield the numbers and the texts to embed of chunks that the table holds no vector of."""
    last = 0
    while rows := connection.execute(
        f"""SELECT chunks.number, title, metadata, heading, chunks.text
            FROM chunks JOIN documents ON documents.id = document_id
            WHERE chunks.number > ? AND chunks.number NOT IN (SELECT number FROM {table})
            ORDER BY chunks.number LIMIT ?""",
        (last, _SLICE),
    ).fetchall():
        last = rows[-1][0]
        yield [row[0] for row in rows], [_text_to_embed(*row[1:]) for row in rows]


def _text_to_embed(title: str, metadata: str, heading: str, text: str) -> str:
    document = Document("", "", title, "", "", "", json.loads(metadata))
    return embedded_text(document, Chunk("", "", 0, 0, text, heading))


def _put(connection: sqlite3.Connection, table: str, numbers: list[int], vectors: Vectors) -> int:
    rows = zip(numbers, (vector.astype("<f4").tobytes() for vector in vectors), strict=True)
    connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)
    return len(numbers)


def _put_in_place(fresh: Path, directory: Path) -> None:
    """Make a finished database the truth of a collection, in one step; the write lock is held.

    A truth that SQLite can open gets the new content in one transaction, so that programs that
    have it open see the old state and then the new one. One that it cannot is replaced by rename.
    """
    target = directory / TRUTH
    if target.exists():
        try:
            with closing(sqlite3.connect(fresh)) as source, closing(connect(target)) as truth:
                with transaction(truth):  # fails at once where another program holds it
                    pass
                source.backup(truth)
            return
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise
    for suffix in ("-wal", "-shm"):  # of the damaged truth: they must not be read into this one
        target.with_name(TRUTH + suffix).unlink(missing_ok=True)
    flush(fresh)
    os.replace(fresh, target)
    flush(directory)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _printable(text: str) -> str:
    """Return the text as one line that no terminal obeys."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))[
        :300
    ]
