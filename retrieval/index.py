"""The FAISS index over a collection's vectors: a snapshot on disk, and what came and went since.

SQLite holds the vectors; the snapshot can be lost at any time. On disk it is
`index-<random>.faiss`, named by `manifest.json`, which is replaced last: it always names a whole
file. It is mapped into memory, so the first query after a start reads only what it needs. Rows that
came since the snapshot's generation are searched exactly in memory, rows that went are left out,
and the best candidates of both are scored with the vectors in SQLite: every score is an exact
cosine. Small collections are searched exactly. Larger ones are clustered, each vector two bits a
dimension (Gao and others, "Practical and Asymptotically Optimal Quantization", SIGMOD 2025): 130
bytes a row at 384 dimensions, for which such rescoring makes up.
Knows nothing of texts or ranking.
"""

import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import faiss as _library
import filelock
import numpy as np
from numpy.typing import NDArray

from ingest.errors import StoreBusy
from retrieval.encoders import Vectors
from retrieval.store import Collection, replace_file

MANIFEST = "manifest.json"
METRIC = "inner product"
EXACT, CLUSTERED = "exact", "clustered, two bits"  # one bit, of older versions, is not taken
EXACT_ROWS = 50_000  # up to here every row is compared: 5 ms at most
PROBES = 128  # clusters that a query looks into at least; there are 2 * sqrt(rows) of them
PROBED_SHARE = 0.3  # of the clusters, if that is more: of a million rows, 128 gave recall@10 .86
OVERFETCH = 4  # candidates per hit
LEAST_CANDIDATES = 100  # each is a read from SQLite; codes of one bit needed 400, and lost more
HASHED_BYTES = 100_000_000  # larger files are not hashed when opened, only by `verify`
CHANGED_ROWS = 10_000  # a snapshot may be behind by this many rows
CHANGED_SHARE = 0.05  # or by this share of its rows, if that is more
FARTHEST = 4  # times that: then no delta is loaded, for it would fill the memory

_BATCH = 10_000  # rows per read from SQLite
_SAMPLE = 50  # rows per cluster to find the clusters by
_FILE = re.compile(r"index-[0-9a-f]{32}\.faiss")

faiss: Any = _library  # its types leave out most of what is used here
FaissIndex = Any
Numbers = NDArray[np.int64]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot on disk is a snapshot of, and in which file it is."""

    encoder: str
    weights_hash: str
    dimension: int
    metric: str
    kind: str  # EXACT or CLUSTERED
    rows: int
    generation: str
    file: str
    sha256: str
    size: int  # bytes
    patched: int = 0  # rows that came or went since it was made of the whole truth


@dataclass(frozen=True, slots=True)
class _View:
    """One state of the truth: a snapshot, less the rows that went, and the rows that came."""

    snapshot: FaissIndex
    base: str  # the generation of the snapshot
    generation: str  # the generation of this state
    gone: Numbers  # rows of the snapshot that left, ascending
    numbers: Numbers  # rows that came, ascending
    vectors: Vectors  # theirs, shape (len(numbers), dimension)
    patched: int = 0  # rows that came into the snapshot or left it since it was made
    parameters: Any = None  # of FAISS: they leave out what is gone

    def __len__(self) -> int:
        return int(self.snapshot.ntotal) - len(self.gone) + len(self.numbers)

    def is_behind(self) -> bool:
        """Whether a new snapshot is worth its making."""
        return self.changed() > self.slack()

    def changed(self) -> int:
        """Return how many rows came or went since the snapshot was made of the whole truth."""
        return self.patched + len(self.gone) + len(self.numbers)

    def slack(self) -> float:
        """Return by how many rows the snapshot may be behind."""
        return max(CHANGED_ROWS, CHANGED_SHARE * int(self.snapshot.ntotal))

    def candidates(self, vector: Vectors, count: int) -> list[int]:
        """Return row numbers near the vector: at most `count` of the snapshot and of the others."""
        found: list[int] = []
        if self.snapshot.ntotal > len(self.gone):
            query = np.ascontiguousarray(vector, dtype=np.float32)[np.newaxis]  # (1, dimension)
            count_here = min(count, self.snapshot.ntotal)
            with _one_thread():
                _, rows = self.snapshot.search(query, count_here, params=self.parameters)
            found = rows[0][rows[0] >= 0].tolist()  # -1: fewer were found
        cosines = self.vectors @ vector  # (len(numbers),)
        near = np.argpartition(-cosines, count)[:count] if len(cosines) > count else slice(None)
        return [*found, *self.numbers[near].tolist()]


class DenseIndex:
    """The vectors of one collection, ready for search; may be used from any thread."""

    def __init__(self, collection: Collection, *, exact_rows: int = EXACT_ROWS) -> None:
        """Open the collection's snapshot; if none is usable, make one and try to save it.

        Args:
            collection: Where the vectors are.
            exact_rows: A snapshot of more rows than this is clustered.
        """
        self._collection = collection
        self._exact_rows = exact_rows
        self._view: _View | None = None
        self._is_new = False  # the snapshot was made by this object
        with collection.reading():  # also keeps other threads out, here and below
            self._current()

    def __len__(self) -> int:
        """Return the number of rows as of the last search."""
        return 0 if self._view is None else len(self._view)

    def search(self, vector: Vectors, *, top_k: int) -> list[tuple[int, float]]:
        """Return (row number, cosine) of the nearest rows, best first, ties by row number.

        Every row is compared in a small collection; in one of more than `exact_rows` a row is
        missed now and then (recall@10 is above .98), but cosines are exact in both.

        Args:
            vector: A unit vector, shape (dimension,).
            top_k: How many rows to return at most.
        """
        if top_k <= 0:
            return []
        with self._collection.reading():
            count = max(OVERFETCH * top_k, LEAST_CANDIDATES)
            numbers = self._current().candidates(vector, count)
            vectors = self._collection.vectors(numbers)  # (candidates, dimension)
        # Row by row, not by BLAS: equal vectors get equal cosines wherever they stand.
        cosines = (vectors * vector).sum(axis=1)
        found = zip(numbers, cosines.tolist(), strict=True)
        return sorted(found, key=lambda hit: (-hit[1], hit[0]))[:top_k]

    def save(self) -> None:
        """Make and write a new snapshot if the one there is far behind the truth.

        Call it after an ingest. A failure is logged, for the index can be rebuilt at any time.
        """
        with self._collection.reading():
            behind = self._current().is_behind()
            if behind:
                self._view = self._made()
        self._forget_changes()

    def forget_removed(self) -> None:
        """Write the snapshot on disk anew without the vectors that left it, if any did.

        What came meanwhile joins it; the clusters stay as they were found. That costs one reading
        and writing of the file. After many such changes the snapshot is made of the truth again. A
        failure to write is logged, for the index can be rebuilt at any time.
        """
        with self._collection.reading():
            loaded = _load(self._collection, known="")
            view = None if loaded is None else _advanced(loaded, self._collection)
            if view is None or view.is_behind():
                self._view = self._made()
            elif len(view.gone):
                self._view = self._patched(view)
        self._forget_changes()

    def rebuild(self) -> None:
        """Make and write the snapshot anew, so that it holds no vector that left.

        A failure to write is logged, for the index can be rebuilt at any time.
        """
        with self._collection.reading():
            view = self._current()
            if not self._is_new or view.base != view.generation:
                self._view = self._made()
        self._forget_changes()

    def _current(self) -> _View:
        """Return the view of the present truth; the caller is reading."""
        view = self._view
        if view is None or view.generation != self._collection.generation:
            self._view = view = self._followed(view)
        return view

    def _followed(self, view: _View | None) -> _View:
        ours = None if view is None else _advanced(view, self._collection)
        if ours is not None and not ours.is_behind():
            return ours
        loaded = _load(self._collection, known="" if view is None else view.base)
        newer = None if loaded is None else _advanced(loaded, self._collection)
        if newer is not None:
            self._is_new = False
            return newer
        return ours or self._made()

    def _made(self) -> _View:
        """Make a snapshot of the present truth and try to write it."""
        _log.info("the index of %s is rebuilt", self._collection.name)
        snapshot = _build(self._collection, self._exact_rows)
        self._is_new = True
        _write(self._collection, snapshot)
        return _view_of(snapshot, self._collection, self._collection.generation)

    def _patched(self, view: _View) -> _View:
        """Return the view with its changes in a snapshot of their own, and try to write that."""
        copy = faiss.deserialize_index(faiss.serialize_index(view.snapshot))  # not the mapped file
        snapshot = _set_probes(copy)
        snapshot.remove_ids(view.gone)
        if len(view.numbers):
            snapshot.add_with_ids(view.vectors, view.numbers)
        _write(self._collection, snapshot, view.changed())
        self._is_new = False
        return _view_of(snapshot, self._collection, view.generation, view.changed())

    def _forget_changes(self) -> None:
        manifest = read_manifest(self._collection.directory)
        if manifest is None or self._view is None or manifest.generation != self._view.base:
            return  # what is on disk still needs the log
        with suppress(StoreBusy):  # the next snapshot will do it
            self._collection.forget_changes(manifest.generation)


def read_manifest(directory: Path) -> Manifest | None:
    """Return the manifest of a collection's folder, None if there is none that can be read."""
    try:
        read = json.loads((directory / MANIFEST).read_bytes())
        manifest = Manifest(**read)
    except (OSError, ValueError, TypeError):  # not there, no JSON, or other fields
        return None
    typed = all(type(getattr(manifest, field.name)) is field.type for field in fields(Manifest))
    return manifest if typed and _FILE.fullmatch(manifest.file) else None


def verify(directory: Path) -> list[str]:
    """Return what is wrong with a collection's snapshot, in words; reads the whole file.

    Nothing is wrong with a collection that has no snapshot: the next search makes it one.
    """
    if not (directory / MANIFEST).exists():
        return []
    manifest = read_manifest(directory)
    if manifest is None:
        return [f"{MANIFEST} cannot be read"]
    path = directory / manifest.file
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return [f"{manifest.file} cannot be read ({error.strerror})"]
    if digest != manifest.sha256:
        return [f"{manifest.file} is not the file that {MANIFEST} names: it was changed or cut"]
    index = _open(path)
    if index is None or (index.ntotal, index.d) != (manifest.rows, manifest.dimension):
        return [f"{manifest.file} does not hold what {MANIFEST} says"]
    return []


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep FAISS from waking threads that have nothing to do for a single query.

    On a busy machine waiting for them took 20 ms. The setting is that of the calling thread alone.
    """
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _view_of(
    snapshot: FaissIndex, collection: Collection, generation: str, patched: int = 0
) -> _View:
    none = np.empty(0, dtype=np.int64)
    vectors = np.empty((0, collection.encoder.identity.dimension), dtype=np.float32)
    return _View(snapshot, generation, generation, none, none, vectors, patched)


def _advanced(view: _View, collection: Collection) -> _View | None:
    """Bring a view to the present truth.

    Returns:
        None if the log of changes does not reach back to the view, or too much has changed.
    """
    changes = collection.changes_since(view.generation)
    if changes is None:
        return None
    changed = len(view.gone) + len(view.numbers) + len(changes.added) + len(changes.removed)
    if changed > FARTHEST * view.slack():
        return None
    kept = ~np.isin(view.numbers, changes.removed)
    went = np.setdiff1d(changes.removed, view.numbers, assume_unique=True)
    new = [
        collection.vectors(changes.added[start : start + _BATCH].tolist())
        for start in range(0, len(changes.added), _BATCH)
    ]
    gone = np.union1d(view.gone, went)
    return replace(
        view,
        generation=collection.generation,
        gone=gone,
        parameters=_leaving_out(gone, view.snapshot),
        numbers=np.concatenate([view.numbers[kept], changes.added]),
        vectors=np.concatenate([view.vectors[kept], *new]),
    )


def _leaving_out(gone: Numbers, snapshot: FaissIndex) -> object:
    if not len(gone):
        return None
    selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(gone))
    if isinstance(snapshot, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=snapshot.nprobe)
    return faiss.SearchParameters(sel=selector)


def _build(collection: Collection, exact_rows: int) -> FaissIndex:
    """Build an index of all rows, which stream by: no more than a sample of them is in memory."""
    rows = collection.count_chunks()
    dimension = collection.encoder.identity.dimension
    if rows > exact_rows:
        index = _clustered(collection, rows)
    else:
        index = faiss.IndexIDMap(faiss.IndexFlatIP(dimension))
    for numbers, vectors in collection.iterate_vectors(_BATCH):
        index.add_with_ids(vectors, numbers)
    return index


def _clustered(collection: Collection, rows: int) -> FaissIndex:
    """Return an empty index with its clusters found; the same rows give the same clusters."""
    clusters = max(1, int(2 * rows**0.5))
    dimension = collection.encoder.identity.dimension
    index = faiss.index_factory(dimension, f"IVF{clusters},RaBitQ2", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = 10
    index.cp.min_points_per_centroid = 1  # no warnings on standard error
    index.cp.max_points_per_centroid = _SAMPLE
    index.qb = 8  # bits per dimension of a query
    _set_probes(index)
    numbers = collection.rowids()
    chosen = np.random.default_rng(0).permutation(numbers)[: clusters * _SAMPLE]
    sample = np.empty((len(chosen), dimension), dtype=np.float32)
    for start in range(0, len(chosen), _BATCH):
        part = np.sort(chosen[start : start + _BATCH])
        sample[start : start + len(part)] = collection.vectors(part.tolist())
    index.train(sample)
    return index


def _write(collection: Collection, index: FaissIndex, patched: int = 0) -> None:
    """Write a snapshot of the present truth, then the manifest that names it."""
    directory = collection.directory
    name = f"index-{uuid.uuid4().hex}.faiss"
    try:
        with filelock.FileLock(directory / "index.lock", timeout=0):
            try:
                sha256, size = _write_index(index, directory / name)
                manifest = replace(
                    _manifest(collection, index, name, sha256, size), patched=patched
                )
                text = json.dumps(asdict(manifest), indent=2)
                replace_file(directory / MANIFEST, text.encode())
            except BaseException:
                _remove_all_but(directory, _named(directory))
                raise
            _remove_all_but(directory, name)
    except filelock.Timeout:
        _log.info("another process is saving the index of %s", collection.name)
    except (OSError, RuntimeError) as error:  # FAISS wraps what a write to the file raises
        _log.warning("the index of %s was not saved: %s", collection.name, error)


def _write_index(index: FaissIndex, path: Path) -> tuple[str, int]:
    """Write and flush the index through a temporary file; return its SHA-256 and size."""
    temporary = path.with_name(path.name + ".new")
    digest = hashlib.sha256()
    with temporary.open("wb") as file:
        # No `faiss.write_index` by path: it cannot open non-ASCII paths on every platform.

        def write(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        writer = faiss.PyCallbackIOWriter(write)
        faiss.write_index(index, writer)
        del writer  # it holds back a part until it goes
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    os.replace(temporary, path)
    return digest.hexdigest(), size


def _manifest(
    collection: Collection, index: FaissIndex, name: str, sha256: str, size: int
) -> Manifest:
    identity = collection.encoder.identity
    return Manifest(
        encoder=identity.name,
        weights_hash=identity.weights_hash,
        dimension=identity.dimension,
        metric=METRIC,
        kind=CLUSTERED if isinstance(index, faiss.IndexIVF) else EXACT,
        rows=index.ntotal,
        generation=collection.generation,
        file=name,
        sha256=sha256,
        size=size,
    )


def _named(directory: Path) -> str:
    manifest = read_manifest(directory)
    return "" if manifest is None else manifest.file


def _remove_all_but(directory: Path, name: str) -> None:
    """Remove older snapshots and what a killed writer left; readers keep what they have mapped."""
    for path in directory.glob("index*.faiss*"):
        if path.name != name:
            with suppress(OSError):  # where a mapped file cannot be removed, the next save does it
                path.unlink()


def _load(collection: Collection, known: str) -> _View | None:
    """Return the view that the snapshot on disk gives, None if it is the known one or unusable."""
    identity = collection.encoder.identity
    expected = (identity.name, identity.weights_hash, identity.dimension, METRIC)
    for _ in range(3):  # a writer may replace the file after we have read the manifest
        manifest = read_manifest(collection.directory)
        if manifest is None or manifest.generation == known:
            return None
        found = (manifest.encoder, manifest.weights_hash, manifest.dimension, manifest.metric)
        if found != expected or manifest.kind not in (EXACT, CLUSTERED):
            return None
        snapshot = _checked(collection.directory / manifest.file, manifest)
        if snapshot is not None:
            return _view_of(snapshot, collection, manifest.generation, manifest.patched)
    return None


def _checked(path: Path, manifest: Manifest) -> FaissIndex | None:
    """Map the file if it is the one that was written; a large one is known by its size alone."""
    try:
        if path.stat().st_size != manifest.size:
            return None
        if manifest.size <= HASHED_BYTES:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != manifest.sha256:
                    return None
    except OSError:
        return None
    index = _open(path)
    if index is None or (index.ntotal, index.d) != (manifest.rows, manifest.dimension):
        return None
    return index


def _set_probes(index: FaissIndex) -> FaissIndex:
    """Set how many clusters a query looks into, if the index has any."""
    if isinstance(index, faiss.IndexIVF):
        index.nprobe = min(max(PROBES, int(PROBED_SHARE * index.nlist)), index.nlist)
    return index


def _open(path: Path) -> FaissIndex | None:
    """Map an index file into memory, or read it where FAISS cannot open the path."""
    for flags in (faiss.IO_FLAG_MMAP_IFC, faiss.IO_FLAG_MMAP):  # codes kept flat, or in lists
        with suppress(RuntimeError):
            return _set_probes(faiss.read_index(str(path), flags))
    try:
        return _set_probes(faiss.deserialize_index(np.fromfile(path, dtype=np.uint8)))
    except (OSError, RuntimeError):
        return None
