"""The tables of a collection's truth, and how an older truth becomes a present one.

    documents     one text each, with all that is known of it
    sources       where texts came from: several may hold one document; not `exact` are those whose
                  own text differs a little from the document that says all of it
    chunks        spans of documents; their numbers are never used twice
    vectors       one per chunk, float32 little-endian, made by the encoder named in `meta`
    terms         FTS5 over the segmented text of the chunks, rowid = chunk number
    commits       one row per commit: the generation it gave the truth
    changes       which chunk numbers each commit put in or took out: what an index follows
    pending       vectors of a document that is still being embedded, by hash of the embedded text
    fingerprints  what near-duplicates of a document are found by

Knows nothing of encoders, indexes or ranking.
"""

import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

SCHEMA_VERSION = "2"

_TABLES_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE documents (
    id TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    language TEXT NOT NULL,
    media_type TEXT NOT NULL,
    metadata TEXT NOT NULL,
    sections TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;
CREATE TABLE sources (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    uri TEXT NOT NULL UNIQUE,
    file_hash TEXT NOT NULL,
    document_id TEXT NOT NULL REFERENCES documents (id) DEFERRABLE INITIALLY DEFERRED
) STRICT;
CREATE INDEX sources_of_document ON sources (document_id);
CREATE TABLE chunks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    document_id TEXT NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    heading TEXT NOT NULL,
    page INTEGER,
    text TEXT NOT NULL
) STRICT;
CREATE INDEX chunks_of_document ON chunks (document_id);
CREATE TABLE vectors (
    number INTEGER PRIMARY KEY REFERENCES chunks (number) ON DELETE CASCADE,
    vector BLOB NOT NULL
) STRICT;
CREATE VIRTUAL TABLE terms USING fts5 (words, tokenize = 'porter unicode61 remove_diacritics 2');
CREATE TRIGGER terms_leave_with_chunks AFTER DELETE ON chunks BEGIN
    DELETE FROM terms WHERE rowid = old.number;
END;
"""

# What version 2 added; a version 1 truth gets it in place, so that no collection is lost.
_TABLES_2 = """
ALTER TABLE chunks ADD COLUMN place TEXT NOT NULL DEFAULT '';
CREATE TABLE commits (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    generation TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE changes (
    sequence INTEGER NOT NULL,
    number INTEGER NOT NULL,
    present INTEGER NOT NULL,
    PRIMARY KEY (sequence, number)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER chunks_come AFTER INSERT ON chunks BEGIN
    INSERT OR REPLACE INTO changes VALUES ((SELECT max(sequence) FROM commits), new.number, 1);
END;
CREATE TRIGGER chunks_go AFTER DELETE ON chunks BEGIN
    INSERT INTO changes VALUES ((SELECT max(sequence) FROM commits), old.number, 0)
        ON CONFLICT (sequence, number) DO UPDATE SET present = -1;
    DELETE FROM changes  -- what came with this very commit never was there
        WHERE sequence = (SELECT max(sequence) FROM commits) AND number = old.number
        AND present = -1;
END;
ALTER TABLE sources ADD COLUMN exact INTEGER NOT NULL DEFAULT 1;
CREATE TABLE pending (hash BLOB PRIMARY KEY, vector BLOB NOT NULL) STRICT;
CREATE TABLE fingerprints (
    document_id TEXT NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    band INTEGER NOT NULL,
    PRIMARY KEY (band, document_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX fingerprints_of_document ON fingerprints (document_id);
"""


def create(connection: sqlite3.Connection, identity: Mapping[str, str]) -> None:
    """Make all tables in an empty database; `identity` goes into `meta` and names the encoder."""
    connection.executescript("PRAGMA auto_vacuum = INCREMENTAL;" + _TABLES_1 + _TABLES_2)
    connection.execute("INSERT INTO meta VALUES ('schema', ?)", (SCHEMA_VERSION,))
    connection.executemany("INSERT INTO meta VALUES (?, ?)", identity.items())
    commit(connection)


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """Commit what the block does, or take all of it back if it raises."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled back already
            connection.execute("ROLLBACK")
        raise


def commit(connection: sqlite3.Connection) -> None:
    """Draw a new generation; call it first in a transaction that changes the truth."""
    connection.execute("INSERT INTO commits (generation) VALUES (?)", (uuid.uuid4().hex,))


def migrate(connection: sqlite3.Connection) -> bool:
    """Bring a truth of an older version up to this one, in one transaction; False if it is.

    The caller holds the write lock and no transaction.

    Raises:
        LookupError: The version is one that this code does not know.
    """
    (version,) = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    if version == SCHEMA_VERSION:
        return False
    if version != "1":
        raise LookupError(version)
    statements = [part for part in _TABLES_2.split(";\n") if part.strip()]
    with transaction(connection):
        for statement in _whole_statements(statements):
            connection.execute(statement)
        connection.execute("DELETE FROM meta WHERE key = 'generation'")
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (SCHEMA_VERSION,))
        commit(connection)
    return True


def is_newer(connection: sqlite3.Connection) -> bool:
    """Return whether a truth names a version that only a newer Tether can know."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    version = str(row[0]) if row else ""
    return version.isascii() and version.isdigit() and int(version[:9]) > int(SCHEMA_VERSION)


def _whole_statements(parts: list[str]) -> list[str]:
    """Join what was parted inside a trigger, whose body has semicolons of its own.

    To the letter: SQLite keeps the text, and a check compares it with that of a fresh truth.
    """
    whole, waiting = [], ""
    for part in parts:
        waiting += part + ";"
        if sqlite3.complete_statement(waiting):
            whole.append(waiting)
            waiting = ""
        else:
            waiting += "\n"
    return whole
