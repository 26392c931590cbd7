"""Follow folders: run an ingest at the start and after every change in them.

    watch([Path("notes")], lambda: run([Path("notes")], sink, options, pipeline=pruning), stop)

An incremental run over an unchanged folder costs almost nothing, so what exactly changed is never
asked: the run finds out, and a change missed by the system is caught by the next one. Knows
nothing of what an ingest does.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event

from ingest.loaders import is_supported

_TICK_MS = 500  # how often a vanished, new or replaced folder is looked for
_SETTLE_MS = 200  # without a change, before a run


def watch(
    folders: Sequence[Path],
    ingest: Callable[[], object],
    stop: Event,
    *,
    debounce_seconds: float = 2.0,
) -> None:
    """Run `ingest` now and whenever something changes in the folders, until `stop` is set.

    A folder that vanishes, comes back or does not exist yet is followed as soon as it is there.

    Args:
        folders: Followed through all their levels; hidden entries do not count as changes.
        ingest: Called in this thread; it should prune, so that vanished files are forgotten.
        stop: Ends the watch within about a second, or when the current ingest ends.
        debounce_seconds: Changes are gathered for at most so long before a run.

    Raises:
        Exception: Whatever `ingest` raises.
    """
    while not stop.is_set():
        present = _present(folders)
        if not present:
            ingest()
            while not stop.wait(_TICK_MS / 1000) and not _present(folders):
                pass
            continue
        is_first = True
        with _held_open(present):
            for changed in _turns(present, folders, stop, debounce_seconds):
                # The first turn comes when the system is already watching: no change is lost.
                if changed or is_first:
                    ingest()
                is_first = False
                if _present(folders) != present:
                    break


def _turns(
    present: Iterable[Path], folders: Sequence[Path], stop: Event, debounce_seconds: float
) -> Iterator[bool]:
    """Yield at every tick whether something changed that matters, until `stop` is set."""
    from watchfiles import watch as follow

    # A folder may vanish before it is followed; the caller then looks again what there is.
    with suppress(FileNotFoundError):
        for changes in follow(
            *present,
            watch_filter=lambda _, path: _matters(path, folders),
            debounce=int(debounce_seconds * 1000),
            step=min(_SETTLE_MS, int(debounce_seconds * 1000)),
            stop_event=stop,
            rust_timeout=_TICK_MS,
            yield_on_timeout=True,
        ):
            yield bool(changes)


@contextmanager
def _held_open(folders: Iterable[Path]) -> Iterator[None]:
    """Keep folders open: while they are, one made anew in their place cannot get their number.

    A file system gives a freed inode number to the next folder, which would then seem followed.
    """
    with ExitStack() as opened:
        for folder in folders:
            with suppress(OSError):  # vanished, or a system that does not open folders
                opened.callback(os.close, os.open(folder, os.O_RDONLY))
        yield


def _present(folders: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Return the folders that exist, each with what tells it from one made anew in its place."""
    present = {}
    for folder in folders:
        try:
            status = folder.stat()
        except OSError:
            continue
        if folder.is_dir():
            present[folder] = (status.st_dev, status.st_ino)
    return present


def _matters(path: str, folders: Sequence[Path]) -> bool:
    """Whether a changed path can change what is ingested; a name without a suffix is a folder."""
    for folder in folders:
        root = os.path.abspath(folder)
        if path == root or path.startswith(root.rstrip(os.sep) + os.sep):
            parts = Path(path).relative_to(root).parts
            hidden = any(part.startswith(".") for part in parts)
            if not hidden and (is_supported(path) or not os.path.isfile(path)):
                return True
    return False
