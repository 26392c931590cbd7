"""The FAISS index over a collection's vectors: exact inner product, row numbers as ids.

SQLite holds the vectors; this is a snapshot of them that can be lost at any time. On disk it is
`index.faiss` with `manifest.json`, and it counts only if the manifest names the collection's
encoder and present generation and the file has the hash in the manifest. Otherwise it is rebuilt
from SQLite without a word to the user. In memory it follows the truth: before each search, rows
that left are dropped and new rows added. Knows nothing of texts or ranking.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import filelock
import numpy as np

from retrieval.encoders import Vectors
from retrieval.store import Collection, replace_file

INDEX = "index.faiss"
MANIFEST = "manifest.json"
METRIC = "inner product"
_BATCH = 10_000  # rows per read from SQLite

FaissIndex = Any  # faiss has no types

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot on disk is a snapshot of."""

    encoder: str
    weights_hash: str
    dimension: int
    metric: str
    rows: int
    generation: str
    index_sha256: str


class DenseIndex:
    """The vectors of one collection, ready for search; may be used from any thread."""

    def __init__(self, collection: Collection) -> None:
        """Load the snapshot of the collection, or rebuild and save it."""
        self._collection = collection
        with collection.reading():  # also keeps other threads out, here and below
            loaded = _load(collection)
            self._index = loaded if loaded is not None else _empty(collection)
            self._generation = collection.generation if loaded is not None else ""
            self._refresh()
        if loaded is None:
            self.save()

    def __len__(self) -> int:
        """Return the number of rows as of the last search."""
        return int(self._index.ntotal)

    def search(self, vector: Vectors, *, top_k: int) -> list[tuple[int, float]]:
        """Return (row number, inner product) of the nearest rows, best first, ties by row number.

        Args:
            vector: A unit vector, shape (dimension,).
            top_k: How many rows to return at most.
        """
        with self._collection.reading():
            self._refresh()
            count = min(top_k, len(self))
            if count <= 0:
                return []
            query = np.ascontiguousarray(vector, dtype=np.float32)[np.newaxis]  # (1, dimension)
            scores, rowids = self._index.search(query, count)  # (1, count) each
        found = zip(rowids[0].tolist(), scores[0].tolist(), strict=True)
        return sorted(found, key=lambda hit: (-hit[1], hit[0]))

    def save(self) -> None:
        """Write the snapshot; a failure is logged, for the index can be rebuilt at any time."""
        directory = self._collection.directory
        with self._collection.reading():
            self._refresh()
            data = faiss.serialize_index(self._index).tobytes()
            manifest = _manifest(self._collection, self._index.ntotal, data)
        try:
            with filelock.FileLock(directory / "index.lock", timeout=0):
                # No `faiss.write_index`: it cannot open non-ASCII paths on every platform.
                replace_file(directory / INDEX, data)
                replace_file(directory / MANIFEST, json.dumps(asdict(manifest), indent=2).encode())
        except filelock.Timeout:
            _log.info("another process is saving the index of %s", self._collection.name)
        except OSError as error:
            _log.warning("the index of %s was not saved: %s", self._collection.name, error)

    def _refresh(self) -> None:
        """Bring the index to the truth's generation; rows keep ascending order throughout."""
        generation = self._collection.generation
        if generation == self._generation:
            return
        present = faiss.vector_to_array(self._index.id_map)
        wanted = self._collection.rowids()
        gone = np.setdiff1d(present, wanted, assume_unique=True)
        new = np.setdiff1d(wanted, present, assume_unique=True)
        if len(gone):
            self._index.remove_ids(gone)
        for start in range(0, len(new), _BATCH):
            rowids = new[start : start + _BATCH]
            self._index.add_with_ids(self._collection.vectors(rowids.tolist()), rowids)
        self._generation = generation
        _log.info(
            "index of %s: %d rows in, %d rows out", self._collection.name, len(new), len(gone)
        )


def _empty(collection: Collection) -> FaissIndex:
    return faiss.IndexIDMap2(faiss.IndexFlatIP(collection.encoder.identity.dimension))


def _manifest(collection: Collection, rows: int, data: bytes) -> Manifest:
    identity = collection.encoder.identity
    return Manifest(
        encoder=identity.name,
        weights_hash=identity.weights_hash,
        dimension=identity.dimension,
        metric=METRIC,
        rows=rows,
        generation=collection.generation,
        index_sha256=hashlib.sha256(data).hexdigest(),
    )


def _load(collection: Collection) -> FaissIndex | None:
    """Return the index on disk if it is exactly a snapshot of the present truth, else None."""
    data = _read(collection.directory / INDEX)
    written = _read(collection.directory / MANIFEST)
    if data is None or written is None:
        _log.info("the index of %s is not there; it is rebuilt", collection.name)
        return None
    expected = asdict(_manifest(collection, collection.count_chunks(), data))
    try:
        if json.loads(written) == expected:
            return faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
    except ValueError:  # the manifest is no JSON
        pass
    _log.info("the index of %s is damaged or out of date; it is rebuilt", collection.name)
    return None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
