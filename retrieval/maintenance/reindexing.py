"""`reindex`: new vectors of another encoder beside the old ones, then one switch."""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from retrieval.encoders import Encoder
from retrieval.index import DenseIndex
from retrieval.maintenance.truths import (
    NEXT,
    VECTORS_NEXT,
    folder_of,
    forget_next,
    migrate,
    put_vectors,
    start_log_anew,
    without_vectors,
    writing,
)
from retrieval.schema import transaction
from retrieval.store import (
    TRUTH,
    connect,
    identity_rows,
    open_collection,
    require_collection,
    sqlite_errors,
)


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
    directory = folder_of(home, name)
    path = directory / TRUTH
    embedded = 0
    with writing(directory), sqlite_errors(path):
        migrate(path)
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
                    forget_next(connection)
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
    begun = {key: meta.get(NEXT + key) for key in wanted}
    if begun != wanted:
        forget_next(connection)
        connection.execute(VECTORS_NEXT)
        connection.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            ((NEXT + key, value) for key, value in wanted.items()),
        )


def _fill_next(
    connection: sqlite3.Connection,
    encoder: Encoder,
    on_progress: Callable[[int, int], None] | None,
) -> int:
    (total,) = connection.execute("SELECT count(*) FROM chunks").fetchone()
    (done,) = connection.execute("SELECT count(*) FROM vectors_next").fetchone()
    embedded = 0
    for numbers, texts in without_vectors(connection, "vectors_next"):
        vectors = encoder.encode_passages(texts)
        with transaction(connection):
            embedded += put_vectors(connection, "vectors_next", numbers, vectors)
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
    forget_next(connection)
    start_log_anew(connection)
