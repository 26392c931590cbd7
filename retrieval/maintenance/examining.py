"""`check`: what is wrong with a truth and its index. Nothing is sampled, nothing is mended."""

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ingest.documents import Section, content_id
from ingest.errors import DamagedStore
from retrieval import schema
from retrieval.index import verify
from retrieval.maintenance.truths import VECTORS_NEXT, Row, folder_of, migrate, printable, writing
from retrieval.store import (
    TRUTH,
    connect,
    require_collection,
    sqlite_errors,
)
from retrieval.terms import index_terms
from retrieval.writing import indexed_text

_UNIT = 1e-3  # how far from 1 the length of a vector may be


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a collection; a "warning" makes no search wrong."""

    severity: Literal["error", "warning"]
    what: str
    remedy: str


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
    directory = folder_of(home, name)
    remedy = f"run: tether rebuild --collection {directory.name}"
    with writing(directory):
        migrate(directory / TRUTH)
        found = examine_file(directory / TRUTH, remedy)
        problems = verify(directory)
    return (*found, *(Finding("error", f"the index: {problem}", remedy) for problem in problems))


class Wrongs:
    """Counts what is wrong by kind and keeps the first example of each."""

    def __init__(self, remedy: str) -> None:
        """Count from zero; `remedy` is what every finding proposes."""
        self._remedy = remedy
        self._found: dict[tuple[Literal["error", "warning"], str], tuple[int, str]] = {}

    def add(
        self,
        kind: str,
        example: object = "",
        severity: Literal["error", "warning"] = "error",
        count: int = 1,
    ) -> None:
        """Count something wrong of a kind."""
        before, first = self._found.get((severity, kind), (0, str(example)))
        self._found[severity, kind] = (before + count, first)

    def findings(self) -> list[Finding]:
        """Return a finding a kind, with its count and first example."""
        return [
            Finding(
                severity,
                f"{kind} ({count}{', first: ' + printable(first) if first else ''})",
                self._remedy,
            )
            for (severity, kind), (count, first) in self._found.items()
        ]


def examine_file(path: Path, remedy: str) -> list[Finding]:
    """Return what is wrong with a truth, its index aside."""
    wrongs = Wrongs(remedy)
    try:
        with sqlite_errors(path), closing(connect(path)) as connection:
            examine(connection, wrongs)
    except DamagedStore as error:
        wrongs.add("SQLite cannot read the truth", error.__cause__)
    return wrongs.findings()


def examine(connection: sqlite3.Connection, wrongs: Wrongs) -> None:
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
            fresh.execute(VECTORS_NEXT)
        return _schema(fresh)


def _examine_meta(connection: sqlite3.Connection, wrongs: Wrongs) -> int:
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


def _examine_log(connection: sqlite3.Connection, wrongs: Wrongs) -> None:
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


def _examine_terms(connection: sqlite3.Connection, wrongs: Wrongs) -> None:
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
    connection: sqlite3.Connection, document: Row, dimension: int, wrongs: Wrongs
) -> None:
    identity, title, metadata, sections, text = document
    source = connection.execute("SELECT uri FROM sources WHERE document_id = ?", (identity,))
    (uri,) = source.fetchone() or ("",)
    if not uri:
        wrongs.add("documents have no source", identity)
    where = uri or identity
    if content_id(text) != identity or not readable_json(metadata, sections):
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
    if not covered(text, (row[:2] for row in chunks)):
        wrongs.add("parts of documents are in no chunk", where)
    _examine_vectors([row[4] for row in chunks], dimension, where, wrongs)


def _examine_vectors(
    vectors: list[bytes | None], dimension: int, where: str, wrongs: Wrongs
) -> None:
    present = [vector for vector in vectors if vector is not None]
    if missing := len(vectors) - len(present):
        wrongs.add("chunks have no vector", where, count=missing)
    measured = [vector for vector in present if len(vector) == 4 * dimension]
    if strange := len(present) - len(measured):
        wrongs.add("vectors have the wrong length", where, count=strange)
    if unsound := len(measured) - int(are_units(measured, dimension).sum()):
        wrongs.add("vectors are not finite unit vectors", where, count=unsound)


def are_units(blobs: list[bytes], dimension: int) -> NDArray[np.bool_]:
    """Return for each vector of the right length whether it is finite and of length 1."""
    matrix = np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(blobs), dimension)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(matrix.astype(np.float64), axis=1)
        units: NDArray[np.bool_] = np.abs(lengths - 1) <= _UNIT  # false for nan and infinity
        return units


def covered(text: str, spans: Iterable[tuple[int, int]]) -> bool:
    """Return whether every character that is no space stands in a span."""
    reached = 0
    for start, end in sorted(spans):
        if start > reached and text[reached:start].strip():
            return False
        reached = max(reached, end)
    return not text[reached:].strip()


def readable_json(metadata: str, sections: str) -> bool:
    """Return whether both columns hold JSON of the shapes that we write."""
    try:
        located = [Section(**section) for section in json.loads(sections)]
        return isinstance(json.loads(metadata), dict) and all(
            isinstance(section.start, int) for section in located
        )
    except (ValueError, TypeError, RecursionError):
        return False
