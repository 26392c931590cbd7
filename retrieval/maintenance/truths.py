"""The truth of a collection as maintenance handles it: its folder, lock, vectors and place."""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from ingest.documents import Chunk, Document
from ingest.errors import StoreError
from retrieval import schema
from retrieval.encoders import EncoderIdentity, Vectors
from retrieval.schema import transaction
from retrieval.store import (
    TRUTH,
    checked_name,
    connect,
    flush,
    holding,
    identity_rows,
)
from retrieval.writing import embedded_text

_SLICE = 512  # chunks that are embedded and committed together
IDENTITY = ("encoder", "weights_hash", "dimension")  # keys of `meta`
NEXT = "next_"  # before these keys: the encoder of a reindex that has not ended
VECTORS_NEXT = """CREATE TABLE vectors_next (
    number INTEGER PRIMARY KEY REFERENCES chunks (number) ON DELETE CASCADE,
    vector BLOB NOT NULL
) STRICT"""
Row = tuple[Any, ...]  # of SQLite values


def start_log_anew(connection: sqlite3.Connection) -> None:
    """Make every snapshot of an index void: its generation is in the log no more."""
    connection.execute("DELETE FROM changes")
    connection.execute("DELETE FROM commits")
    schema.commit(connection)


def forget_next(connection: sqlite3.Connection) -> None:
    """Drop the vectors of a reindex that has not ended."""
    connection.execute("DROP TABLE IF EXISTS vectors_next")
    connection.executemany("DELETE FROM meta WHERE key = ?", ((NEXT + key,) for key in IDENTITY))


def folder_of(home: Path, name: str) -> Path:
    """Return the folder of a collection, which may not be there."""
    return home / "collections" / checked_name(name)


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Hold the write lock of a collection that is not open (its encoder may not be at hand)."""
    with holding(filelock.FileLock(directory / "write.lock"), directory.name):
        yield


@contextmanager
def workshop(folder: Path, prefix: str) -> Iterator[Path]:
    """Lend an empty folder, and clear those that killed runs left; the caller holds a lock."""
    for left in folder.glob(prefix + "*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder) as lent:
        yield Path(lent)


def created(path: Path, identity: EncoderIdentity) -> sqlite3.Connection:
    """Return a connection to a new, empty truth of an encoder."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    schema.create(connection, identity_rows(identity))
    return connection


def migrate(path: Path) -> None:
    """Bring an older truth up to date; one that cannot be read is left to those who examine it.

    Raises:
        StoreError: A newer Tether wrote it.
    """
    with suppress(sqlite3.DatabaseError, LookupError, TypeError), closing(connect(path)) as old:
        refuse_newer(old, path)
        schema.migrate(old)


def refuse_newer(connection: sqlite3.Connection, path: Path) -> None:
    """Leave a truth alone of which we do not know all: mending it would lose what we do not know.

    Raises:
        StoreError: A newer Tether wrote it.
    """
    if schema.is_newer(connection):
        raise StoreError(
            f"collection {path.parent.name} was written by a newer Tether, and stays as it is; "
            "use that one, or update this one"
        )


def without_vectors(
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


def put_vectors(
    connection: sqlite3.Connection, table: str, numbers: list[int], vectors: Vectors
) -> int:
    """Store vectors of chunks in a table; return how many."""
    rows = zip(numbers, (vector.astype("<f4").tobytes() for vector in vectors), strict=True)
    connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)
    return len(numbers)


def put_in_place(fresh: Path, directory: Path) -> None:
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


def printable(text: str) -> str:
    """Return the text as one line that no terminal obeys."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))[
        :300
    ]
