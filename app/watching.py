"""Folders that are followed into collections while a process serves, each by a thread of its own.

    watches = Watches()
    watches.start("handbook", folder, lambda: service_reads_it_again())
    watches.of("handbook")[folder].state        # "reading", "following", or why it "failed"
    watches.stop("handbook", folder)

What was read stays when a folder is followed no more, and nothing is followed after a restart until
somebody asks for it anew. Knows nothing of who may follow what, or of what a reading does.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ingest.errors import ServiceBusy, StoreBusy, TetherError
from ingest.pipeline import Report
from ingest.watch import watch

_LOG = logging.getLogger(__name__)

MOST_WATCHES = 32  # at a time: each holds a thread
RETRY_SECONDS = 1.0  # until a reading is tried again that found somebody else writing


@dataclass(frozen=True, slots=True)
class Watch:
    """How it stands with a folder that can be followed into a collection."""

    folder: Path
    state: Literal["idle", "reading", "following", "failed"] = "idle"
    read: float = 0.0  # seconds since 1970 when it was last read through, 0 for never
    report: Report | None = None  # of that reading
    message: str = ""  # why it failed


class Watches:
    """All folders that are followed; every method may be called from any thread."""

    def __init__(self) -> None:
        """Follow nothing yet."""
        self._lock = threading.Lock()
        self._followers: dict[tuple[str, Path], _Follower] = {}

    def start(self, collection: str, folder: Path, read: Callable[[], Report]) -> None:
        """Follow a folder; one that is followed already simply goes on.

        Args:
            collection: Where its files go.
            folder: Need not be there yet.
            read: Takes the whole folder in and forgets what is gone from it, now and after every
                change. While somebody else is writing (`StoreBusy`, `ServiceBusy`) it is called
                again; any other error ends the watch.

        Raises:
            ServiceBusy: Too many are followed.
        """
        with self._lock:
            known = self._followers.get((collection, folder))
            if known is not None and known.is_running():
                return
            if sum(one.is_running() for one in self._followers.values()) >= MOST_WATCHES:
                raise ServiceBusy(f"{MOST_WATCHES} folders are followed already; stop one of them")
            self._followers[collection, folder] = _Follower(folder, read)

    def stop(self, collection: str, folder: Path) -> None:
        """Follow a folder no more; a reading that has begun comes to its end."""
        with self._lock:
            known = self._followers.pop((collection, folder), None)
        if known is not None:
            known.stop()

    def of(self, collection: str) -> dict[Path, Watch]:
        """Return how it stands with the folders that are followed into a collection, or failed."""
        with self._lock:
            return {
                folder: follower.shown
                for (name, folder), follower in self._followers.items()
                if name == collection
            }

    def forget(self, collection: str) -> None:
        """Follow nothing into a collection any more."""
        for folder in self.of(collection):
            self.stop(collection, folder)

    def close(self, patience: float) -> None:
        """Follow nothing any more; wait so many seconds for the readings that have begun."""
        with self._lock:
            followers = list(self._followers.values())
            self._followers.clear()
        for follower in followers:
            follower.stop()
        deadline = time.monotonic() + patience
        for follower in followers:
            follower.thread.join(max(0.0, deadline - time.monotonic()))


class _Follower:
    """One folder, and the thread that follows it."""

    def __init__(self, folder: Path, read: Callable[[], Report]) -> None:
        self.shown = Watch(folder, "reading")  # replaced whole by the thread, read by others
        self._read = read
        self._stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def is_running(self) -> bool:
        return self.shown.state != "failed"

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        try:
            watch([self.shown.folder], self._catch_up, self._stopped)
        except TetherError as error:
            self._fail(str(error))
        except Exception as error:
            _LOG.exception("a folder can no longer be followed")
            self._fail(f"it failed ({type(error).__name__}); see the server's log and try again")

    def _fail(self, message: str) -> None:
        self.shown = replace(self.shown, state="failed", message=message)

    def _catch_up(self) -> None:
        """Read the folder; while somebody else is writing, wait until they have done."""
        self.shown = replace(self.shown, state="reading")
        while not self._stopped.is_set():
            try:
                report = self._read()
            except (ServiceBusy, StoreBusy):
                self._stopped.wait(RETRY_SECONDS)
            else:
                self.shown = Watch(self.shown.folder, "following", time.time(), report)
                return
