"""An older truth becomes a present one in place, and nothing of it is lost."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import filelock
import pytest

from ingest.documents import Chunk, Document, chunk_id, content_id
from ingest.errors import StoreBusy, StoreError
from retrieval import schema
from retrieval.encoders import HashingEncoder
from retrieval.store import open_collection
from retrieval.terms import index_terms, query_expression

# What version 1 wrote, word for word.
VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE documents (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, language TEXT NOT NULL, media_type TEXT NOT NULL,
    metadata TEXT NOT NULL, sections TEXT NOT NULL, text TEXT NOT NULL
) STRICT;
CREATE TABLE sources (
    number INTEGER PRIMARY KEY AUTOINCREMENT, uri TEXT NOT NULL UNIQUE, file_hash TEXT NOT NULL,
    document_id TEXT NOT NULL REFERENCES documents (id) DEFERRABLE INITIALLY DEFERRED
) STRICT;
CREATE INDEX sources_of_document ON sources (document_id);
CREATE TABLE chunks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    document_id TEXT NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    start INTEGER NOT NULL, "end" INTEGER NOT NULL, heading TEXT NOT NULL, page INTEGER,
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
TEXT = "Green tea is steeped at eighty degrees. 绿茶用八十度的水。"


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Return a truth of version 1 that holds one document of one chunk."""
    encoder = HashingEncoder()
    directory = tmp_path / "collections" / "old"
    directory.mkdir(parents=True)
    document_id = content_id(TEXT)
    indexed = f"茶\nH\n{TEXT}"
    vector = encoder.encode_passages([indexed])[0].astype("<f4").tobytes()
    meta = {
        "schema": "1",
        "generation": "abc",
        "encoder": encoder.identity.name,
        "weights_hash": encoder.identity.weights_hash,
        "dimension": str(encoder.identity.dimension),
    }
    sections = json.dumps([{"start": 0, "heading": "H", "page": 1}])
    with closing(sqlite3.connect(directory / "truth.sqlite3")) as connection:
        connection.executescript(VERSION_1)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        connection.execute(
            "INSERT INTO documents VALUES (?, '茶', 'mixed', 'text/plain', '{}', ?, ?)",
            (document_id, sections, TEXT),
        )
        connection.execute("INSERT INTO sources VALUES (3, 'file:a', 'h', ?)", (document_id,))
        connection.execute(
            "INSERT INTO chunks VALUES (7, ?, 0, ?, 'H', 1, ?)", (document_id, len(TEXT), TEXT)
        )
        connection.execute("INSERT INTO vectors VALUES (7, ?)", (vector,))
        connection.execute(
            "INSERT INTO terms (rowid, words) VALUES (7, ?)", (index_terms(indexed),)
        )
        connection.commit()
    return directory / "truth.sqlite3"


@pytest.fixture
def home(truth: Path) -> Iterator[Path]:
    yield truth.parent.parent.parent


def test_nothing_of_version_1_is_lost(home: Path) -> None:
    encoder = HashingEncoder()
    for _ in range(2):  # migrated, then opened as it is
        with open_collection(home, "old", encoder) as opened:
            document = opened.document_of("file:a")
            assert document is not None
            assert (document.text, document.title, document.sections[0].page) == (TEXT, "茶", 1)
            assert opened.match_terms(query_expression("绿茶 steeping"), top_k=5)[0][0] == 7
            expected = encoder.encode_passages([f"茶\nH\n{TEXT}"])
            assert opened.vectors([7]).tolist() == expected.tolist()
            assert (opened.uris(), opened.file_hash("file:a")) == (["file:a"], "h")
            assert opened.chunks_by_rowid([7])[7].chunk.place == ""
            assert opened.changes_since("abc") is None
    with open_collection(home, "old", encoder) as opened:
        generation = opened.generation
        text = "another"
        made = Document(content_id(text), "file:b", "", text, "en", "text/plain")
        chunk = Chunk(chunk_id(made.id, 0, len(text)), made.id, 0, len(text), text, place="row 1")
        assert opened.add("file:b", "h", made, [chunk]) == "added"
        changes = opened.changes_since(generation)
        assert changes is not None
        assert changes.added.tolist() == [8]
        assert opened.chunks_by_rowid([8])[8].chunk == chunk
        opened.compact()
        assert opened.count_chunks() == 2


def test_migration_waits_for_no_other_writer(home: Path, truth: Path) -> None:
    with filelock.FileLock(truth.parent / "write.lock"), pytest.raises(StoreBusy, match="wait"):
        open_collection(home, "old", HashingEncoder())
    open_collection(home, "old", HashingEncoder()).close()


def test_a_migration_that_fails_changes_nothing(truth: Path) -> None:
    with closing(sqlite3.connect(truth, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE pending (in_the_way)")
        with pytest.raises(sqlite3.OperationalError):
            schema.migrate(connection)
        (version,) = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        assert version == "1"
        connection.execute("DROP TABLE pending")
        assert schema.migrate(connection) is True
        assert schema.migrate(connection) is False


def test_an_unknown_version_is_refused(home: Path, truth: Path) -> None:
    with closing(sqlite3.connect(truth)) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
        connection.commit()
    with pytest.raises(StoreError, match=r"another version of Tether.*new collection"):
        open_collection(home, "old", HashingEncoder())
