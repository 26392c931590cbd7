"""`export_collection` and `import_collection`: one file of a collection, and back.

A file comes from a stranger until it is proven sound: it is unpacked within bounds, and of a schema
that is not ours nothing but the schema is read.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import sqlite3
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import filelock

from ingest.errors import StoreBusy, StoreError, UsageError
from retrieval import schema
from retrieval.maintenance.examining import Wrongs, examine
from retrieval.maintenance.truths import (
    IDENTITY,
    folder_of,
    forget_next,
    printable,
    put_in_place,
    refuse_newer,
    start_log_anew,
    workshop,
    writing,
)
from retrieval.store import (
    LOCK_SECONDS,
    TRUTH,
    CollectionInfo,
    connect,
    describe,
    flush,
    require_collection,
    sqlite_errors,
)

EXPORT_FORMAT = 1
MANIFEST = "manifest.json"


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
    path = folder_of(home, name) / TRUTH
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
        with _importing(collections), workshop(collections, ".import-") as folder:
            truth = folder / "incoming.sqlite3"
            manifest = _unpack(file, truth)
            directory = folder_of(home, name or str(manifest["name"]))
            _refuse_existing(directory, replace=replace)
            _prove(file, truth, manifest)
            directory.mkdir(exist_ok=True)
            with writing(directory), sqlite_errors(directory / TRUTH):
                _refuse_existing(directory, replace=replace)  # one may have come meanwhile
                put_in_place(truth, directory)
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
        refuse_newer(connection, path)
        with suppress(LookupError, TypeError):  # whoever imports it will say what is wrong
            schema.migrate(connection)
        connection.execute("DELETE FROM pending")
        forget_next(connection)
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        counts = {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("documents", "sources", "chunks")
        }
    return {
        "format": EXPORT_FORMAT,
        "tether": _version(),
        "name": path.parent.name,
        **{key: meta.get(key, "") for key in IDENTITY},
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
    expected |= {key: str for key in IDENTITY}
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
    wrongs = Wrongs("")
    try:
        # Nothing of the file runs: until its schema is known to be ours, only that is read.
        with closing(sqlite3.connect(truth, isolation_level=None)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute("PRAGMA foreign_keys = ON")
            examine(connection, wrongs)
            if findings := [one for one in wrongs.findings() if one.severity == "error"]:
                raise ValueError(findings[0].what)
            if connection.execute("PRAGMA page_size").fetchone() != (4096,):
                raise ValueError("its pages have another size")
            meta = dict(connection.execute("SELECT key, value FROM meta"))
            if any(meta[key] != manifest[key] for key in IDENTITY):
                raise ValueError("its manifest names another encoder")
            connection.execute("BEGIN")
            connection.execute("DELETE FROM pending")
            forget_next(connection)
            start_log_anew(connection)
            connection.execute("COMMIT")
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        raise _refusal(file, error) from error


def _refusal(file: Path, reason: object) -> StoreError:
    return StoreError(
        f"{file} is not a sound export of Tether ({printable(str(reason))}); export it again"
    )


@contextmanager
def _importing(collections: Path) -> Iterator[None]:
    """Let one import at a time into a home: each needs room for two truths as it is."""
    try:
        with filelock.FileLock(collections.with_name("import.lock"), timeout=LOCK_SECONDS):
            yield
    except filelock.Timeout as error:
        raise StoreBusy("another import is running; wait for it to finish") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
