"""`rebuild`: make a collection sound again from what is left of it, and name what is lost."""

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from ingest.chunking import split
from ingest.documents import Document, Section, content_id
from ingest.errors import DamagedStore, StoreError
from retrieval import duplicates
from retrieval.encoders import Encoder, EncoderIdentity
from retrieval.index import DenseIndex
from retrieval.maintenance.examining import are_units, covered, examine_file, readable_json
from retrieval.maintenance.truths import (
    Row,
    created,
    folder_of,
    migrate,
    put_in_place,
    put_vectors,
    start_log_anew,
    without_vectors,
    workshop,
    writing,
)
from retrieval.store import (
    TRUTH,
    check_identity,
    connect,
    flush,
    open_collection,
    require_collection,
    sqlite_errors,
)
from retrieval.terms import index_terms
from retrieval.writing import chunking_of, indexed_text, settle


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did, a line each, and the uris that have to be ingested again."""

    mended: tuple[str, ...]
    lost: tuple[str, ...]
    damaged_file: Path | None = None  # the truth as it was, if something of it was lost


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
    directory = folder_of(home, name)
    rebuilt = Rebuilt((), ())
    with writing(directory):
        migrate(directory / TRUTH)
        if any(found.severity == "error" for found in examine_file(directory / TRUTH, "")):
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


def _replace_by_what_is_left(directory: Path, encoder: Encoder) -> Rebuilt:
    path = directory / TRUTH
    mended: list[str] = []
    with workshop(directory, ".rebuild-") as folder:
        fresh_path = folder / "fresh.sqlite3"
        with sqlite_errors(path), closing(created(fresh_path, encoder.identity)) as fresh:
            fresh.execute("BEGIN")
            lost = _copy(path, fresh, encoder.identity, mended)
            _cut_again(fresh, encoder, mended)
            _embed_missing(fresh, encoder, mended)
            _index(fresh)
            start_log_anew(fresh)
            fresh.execute("COMMIT")
        kept = _keep_damaged(path) if lost or not _readable_whole(path) else None
        put_in_place(fresh_path, directory)
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
        if sound and readable_json(metadata, sections):
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
        if right_length and are_units([vector], dimension).all():
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
        if covered(text, spans):
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
        put_vectors(fresh, "vectors", numbers, encoder.encode_passages(texts))
        for numbers, texts in without_vectors(fresh, "vectors")
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


def _readable(
    connection: sqlite3.Connection, table: str, columns: str, *, step: int = 1000
) -> Iterator[Row]:
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
) -> Iterator[Row]:
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
