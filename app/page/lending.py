"""A large model beside the service's own: loaded when first needed, lent in turns, let go unused.

    lender = Lender(load)  # load("tuned") returns a generator
    with lender.turn("ada") as turn:
        while position := turn.wait():
            ...  # so many are before us
        generator = turn.take("tuned")

One is in memory at a time, and one user has it at a time; a while after the last one it is closed.
Knows nothing of what is loaded.
"""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from app.turns import Line, Ticket
from model.generators import Generator

G = TypeVar("G", bound=Generator)

IDLE_SECONDS = 600.0  # that a model stays in memory after its last use
HEARTBEAT = 1.0  # seconds: whoever waits hears its position at least so often
LONGEST = 32  # who may wait in all ...
LONGEST_EACH = 2  # ... and of one owner


class Lender(Generic[G]):
    """Holds at most one model, which is known by a name; all methods are thread-safe."""

    def __init__(self, load: Callable[[str], G], *, idle_seconds: float = IDLE_SECONDS) -> None:
        """Load nothing yet.

        Args:
            load: Returns the model of a name.
            idle_seconds: How long a model stays after its last use.
        """
        self._load = load
        self._idle_seconds = idle_seconds
        self._line = Line(places=1, longest=LONGEST, longest_each=LONGEST_EACH)
        self._held: dict[str, G] = {}  # one at most
        self._lock = threading.Lock()  # of what is held, against the timer
        self._timer: threading.Timer | None = None
        weakref.finalize(self, _close_all, self._held)  # at the end of the process, too

    @contextmanager
    def turn(self, owner: str) -> Iterator["Turn[G]"]:
        """Stand in line for whatever is to be lent, until the block ends.

        Raises:
            ServiceBusy: Too many wait already.
        """
        ticket = self._line.join(owner)
        try:
            yield Turn(self, ticket)
        finally:
            with self._lock:
                self._line.leave(ticket)
                self._restart_timer()

    def holds(self, name: str) -> bool:
        """Tell whether a model is in memory."""
        return name in self._held

    def _wait(self, ticket: Ticket) -> int:
        return self._line.wait(ticket, HEARTBEAT)

    def _take(self, name: str) -> G:
        with self._lock:
            if name not in self._held:
                _close_all(self._held)  # first, so that never two of them are in memory
                self._held[name] = self._load(name)
            return self._held[name]

    def _restart_timer(self) -> None:
        """Let go of the model later on; the lock is held."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(self._idle_seconds, self._let_go)
        self._timer.daemon = True
        self._timer.start()

    def _let_go(self) -> None:
        with self._lock:
            is_lent, _ = self._line.counts()
            if not is_lent:
                _close_all(self._held)


class Turn(Generic[G]):
    """A place in the line, and then the right to take a model."""

    def __init__(self, lender: Lender[G], ticket: Ticket) -> None:
        """Made by `Lender.turn`."""
        self._lender = lender
        self._ticket = ticket

    def wait(self) -> int:
        """Wait a second at most, and return how many come before; 0 when it is our turn."""
        return self._lender._wait(self._ticket)

    def take(self, name: str) -> G:
        """Return the model of a name, which may have to be loaded; only when it is our turn."""
        return self._lender._take(name)


def _close_all(held: dict[str, G]) -> None:
    while held:
        held.popitem()[1].close()
