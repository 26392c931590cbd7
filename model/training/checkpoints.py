"""Checkpoints on disk: complete or absent, whatever is killed meanwhile. No pickle.

A checkpoint is a folder `NAME-STEP`: tensors in safetensors, everything else in `state.json`,
which holds the hash of the tensors. It is written under a hidden name, flushed and renamed; older
ones are removed only then, so the last good one survives a kill or a full disk at any moment.
Knows nothing of training: names, tensors and a JSON state go in and come out.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ingest.errors import TrainingError

_TENSORS = "tensors.safetensors"
_STATE = "state.json"


def save_checkpoint(
    folder: Path,
    name: str,
    step: int,
    tensors: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
) -> Path:
    """Write `folder/NAME-STEP` and return it; no other checkpoint is touched.

    Raises:
        TrainingError: The disk is full or not writable; the checkpoints that exist are kept.
    """
    target = folder / f"{name}-{step:08}"
    with written_folder(target) as partial:
        plain = {key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}
        save_file(plain, partial / _TENSORS)
        text = json.dumps({"step": step, "sha256": _sha256(partial / _TENSORS), **state})
        (partial / _STATE).write_text(text, encoding="utf-8")
    return target


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors, on the CPU, and the state of one checkpoint.

    Raises:
        TrainingError: A file of it is missing or altered.
    """
    try:
        state: dict[str, Any] = json.loads((path / _STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict):
            raise ValueError("its state is no JSON object")
        if _sha256(path / _TENSORS) != state["sha256"]:
            raise ValueError("its tensors do not fit their hash")
        return load_file(path / _TENSORS), state
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise TrainingError(
            f"the checkpoint {path} is damaged ({error}): delete it, or train in another folder"
        ) from error


def latest_checkpoint(folder: Path, name: str) -> Path | None:
    """Return the complete checkpoint of the highest step, or None."""
    return max(folder.glob(f"{name}-[0-9]*"), default=None)


def restore_checkpoints(folder: Path, name: str) -> None:
    """Put back what a process had moved aside when it was killed; call it before any writing."""
    for old in folder.glob(f".{name}-[0-9]*.old"):
        _restore(old.with_name(old.name[1:].removesuffix(".old")))


def remove_checkpoints(folder: Path, name: str, *, but: Path | None) -> None:
    """Remove the checkpoints of a name, but one; and what killed runs left half written."""
    for path in [*folder.glob(f"{name}-[0-9]*"), *folder.glob(f".{name}-[0-9]*.*")]:
        if path != but:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def written_folder(target: Path) -> Iterator[Path]:
    """Yield an empty hidden folder that becomes `target` when the block ends without an error.

    A folder of that name gives way only when the new one is complete.

    Raises:
        TrainingError: The disk is full or not writable. Nothing half-made is left behind.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        _restore(target)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        _flush(partial)
        _replace(partial, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(
            f"{target} cannot be written ({reason}), what stood there before is kept: free space"
            " on that disk or make it writable, and run the same command again"
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace a small text file at one stroke.

    Raises:
        TrainingError: The disk is full or not writable; the file is as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise TrainingError(
            f"{path} cannot be written ({error.strerror}): free space on that disk or make it"
            " writable, and run the same command again"
        ) from error


def _aside(target: Path) -> Path:
    """Return where a folder lies while another takes its place."""
    return target.with_name(f".{target.name}.old")


def _restore(target: Path) -> None:
    """Put a folder back that a killed process had moved aside; remove it if it was replaced."""
    old = _aside(target)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        return
    with suppress(OSError):  # there is none, or another process of the run was faster
        os.replace(old, target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(folder: Path) -> None:
    """Force the files to the disk, so that the rename cannot outrun their contents."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _replace(partial: Path, target: Path) -> None:
    """Rename a folder over one that may exist; `_restore` mends what a kill in between leaves."""
    old = _aside(target)
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)
    with suppress(OSError):  # Windows cannot open a folder; its rename is durable without
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
