"""Failed guesses of passwords and tokens, counted: a few are free, then each doubles the wait.

    wait = attempts.begin("address 192.0.2.7", "user ada")   # seconds, 0.0 to go on
    ...
    attempts.undo("address 192.0.2.7")                       # it was right after all
    attempts.forget("user ada")

An attempt counts as failed from its beginning, so that many at the same instant cannot all slip
through. Memory is bounded: the longest untouched keys go first. Counts live as long as the process.
Knows nothing of what is guessed.
"""

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

FREE = 5  # failures that cost no wait
LONGEST_WAIT = 900.0  # seconds
REMEMBERED = 3600.0  # seconds since the last failure
MOST_KEYS = 10_000


@dataclass(slots=True)
class _Failures:
    count: int
    last: float  # when, by the clock

    @property
    def until(self) -> float:
        """When the next attempt may begin."""
        if self.count < FREE:
            return self.last
        return self.last + min(LONGEST_WAIT, 2.0 ** (self.count - FREE + 1))


class Attempts:
    """Failures by key; all methods are thread-safe."""

    def __init__(
        self, *, most_keys: int = MOST_KEYS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start with none.

        Args:
            most_keys: Keys that are remembered at a time.
            clock: Seconds.
        """
        self._most_keys = most_keys
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, _Failures] = OrderedDict()  # the oldest first

    def begin(self, *keys: str) -> float:
        """Count an attempt and return 0.0; or the seconds to wait before one is allowed."""
        with self._lock:
            now = self._clock()
            self._drop_old(now)
            known = [self._failures[key] for key in keys if key in self._failures]
            wait = max((failures.until - now for failures in known), default=0.0)
            if wait > 0:
                return wait
            for key in keys:
                failures = self._failures.setdefault(key, _Failures(0, now))
                failures.count += 1
                failures.last = now
                self._failures.move_to_end(key)
            while len(self._failures) > self._most_keys:
                self._failures.popitem(last=False)
            return 0.0

    def undo(self, key: str) -> None:
        """Take back one attempt of a key."""
        with self._lock:
            failures = self._failures.get(key)
            if failures is not None:
                failures.count -= 1
                if failures.count <= 0:
                    del self._failures[key]

    def forget(self, key: str) -> None:
        """Take back all attempts of a key."""
        with self._lock:
            self._failures.pop(key, None)

    def __len__(self) -> int:
        """Return how many keys are remembered."""
        return len(self._failures)

    def _drop_old(self, now: float) -> None:
        while self._failures:
            oldest = next(iter(self._failures.values()))
            if oldest.last + REMEMBERED > now:
                return
            self._failures.popitem(last=False)


def address_key(host: str) -> str:
    """Return the key of a client's address: of IPv6 the network, which one client has whole."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return f"address {host[:100]}"
    if address.version == 6:
        return f"address {ipaddress.ip_network((address, 64), strict=False)}"
    return f"address {address}"


def wait_of(seconds: float) -> int:
    """Return a wait in the whole seconds that a `Retry-After` names."""
    return max(1, math.ceil(seconds))
