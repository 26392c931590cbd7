"""A fair line before a few places: who waits is let in by turns, one owner after the other.

    line = Line(places=4, longest=256, longest_each=64)
    ticket = line.join("ada")
    try:
        while position := line.wait(ticket, seconds=1.0):
            print(f"{position} to go")
        ...  # the place is ours
    finally:
        line.leave(ticket)

Somebody who asks a hundred questions at once delays each other owner by one of them only. Knows
nothing of what the places are for.
"""

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass

from ingest.errors import ServiceBusy


@dataclass(eq=False, slots=True)
class Ticket:
    """A claim to a place, which is known by itself and not by its content."""

    owner: str
    is_admitted: bool = False
    told: int = -1  # the position that its holder was told last


class Line:
    """Lets tickets through to a few places, owners in turns; all methods are thread-safe."""

    def __init__(self, *, places: int, longest: int, longest_each: int) -> None:
        """Open the line.

        Args:
            places: Tickets that are let through at a time.
            longest: Tickets that may wait in all ...
            longest_each: ... and of one owner.
        """
        self._free = places
        self._longest = longest
        self._longest_each = longest_each
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()  # owners in turn
        self._admitted: set[Ticket] = set()
        self._is_closed = False
        self._changed = threading.Condition()

    def join(self, owner: str) -> Ticket:
        """Return a ticket at the end of its owner's row; `leave` must follow in any case.

        Raises:
            ServiceBusy: Too many wait already, or the line is closed.
        """
        with self._changed:
            self._require_open()
            waiting = sum(map(len, self._waiting.values()))
            if waiting >= self._longest or len(self._waiting.get(owner, ())) >= self._longest_each:
                raise ServiceBusy(
                    f"{waiting} questions are waiting already; ask again when some are answered"
                )
            ticket = Ticket(owner)
            self._waiting.setdefault(owner, deque()).append(ticket)
            self._admit()
            return ticket

    def wait(self, ticket: Ticket, seconds: float) -> int:
        """Wait until the ticket's position changes, no longer than `seconds`.

        Returns:
            How many are let in until this one is: 1 for the next one, 0 if the place is its own.

        Raises:
            ServiceBusy: The line was closed, and the ticket still waits.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or self._position(ticket) != ticket.told, timeout=seconds
            )
            ticket.told = self._position(ticket)
            if ticket.told:
                self._require_open()
            return ticket.told

    def leave(self, ticket: Ticket) -> None:
        """Give up a place, or the hope of one; leaving twice is harmless."""
        with self._changed:
            if ticket in self._admitted:
                self._admitted.remove(ticket)
                self._free += 1
                self._admit()
            elif ticket in self._waiting.get(ticket.owner, ()):
                row = self._waiting[ticket.owner]
                row.remove(ticket)
                if not row:
                    del self._waiting[ticket.owner]
            self._changed.notify_all()

    def close(self) -> None:
        """Refuse whoever waits or comes; those who have a place keep it."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def wait_until_left(self, seconds: float) -> bool:
        """Wait until no place is taken; False if that took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._admitted, timeout=seconds)

    def counts(self) -> tuple[int, int]:
        """Return how many have a place, and how many wait."""
        with self._changed:
            return len(self._admitted), sum(map(len, self._waiting.values()))

    def _require_open(self) -> None:
        if self._is_closed:
            raise ServiceBusy("the server is stopping; ask again when it is back")

    def _admit(self) -> None:
        """Let in as many as there are free places, and send each owner to the end."""
        while self._free and self._waiting and not self._is_closed:
            owner, row = self._waiting.popitem(last=False)
            ticket = row.popleft()
            ticket.is_admitted = True
            self._admitted.add(ticket)
            self._free -= 1
            if row:
                self._waiting[owner] = row
        self._changed.notify_all()

    def _position(self, ticket: Ticket) -> int:
        if ticket.is_admitted:
            return 0
        place = self._waiting[ticket.owner].index(ticket)  # so many rounds come before its own
        before = place + 1
        is_later = False
        for owner, row in self._waiting.items():
            if owner == ticket.owner:
                is_later = True  # owners from here on had fewer turns when this one's came
            else:
                before += min(len(row), place + (not is_later))
        return before
