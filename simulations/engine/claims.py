"""Work sharing within a round: a worker that is free takes the next clients, so that no worker waits for another.

To deal clients out beforehand leaves a worker idle whenever the system has slowed down the other, and to hand them out
one by one over pipes takes as long as small models train. Here a worker takes them from a counter in shared memory.
"""

from collections.abc import Iterator
from typing import Any

LOCK_TIMEOUT = 10.0
"""Seconds to wait for the counter, which is held for microseconds: a process that died may have held it."""


class Claims:
    """A counter that the processes of a pool share.

    Args:
        context: how they are started.
    """

    def __init__(self, context: Any) -> None:
        self._shared = context.Array("q", 2)  # the round, and the first client that nobody has taken

    def begin(self) -> int:
        """Begin a round, and return its number; of the rounds before, nothing can be taken any more.

        Raises:
            TimeoutError: a process that died has the counter.
        """
        if not self._shared.get_lock().acquire(timeout=LOCK_TIMEOUT):
            raise TimeoutError("the counter of clients is held by a process that died")
        try:
            number = self._shared[0] = self._shared[0] + 1
            self._shared[1] = 0
        finally:
            self._shared.get_lock().release()
        return int(number)

    def take(self, round_number: int, count: int, clients: int) -> range:
        """Take the next `count` of the `clients` of a round; empty: none is left, or the round is over."""
        with self._shared.get_lock():
            start = self._shared[1] if self._shared[0] == round_number else clients
            stop = min(clients, start + count)
            if start < stop:
                self._shared[1] = stop
        return range(start, stop)

    def are_left(self, clients: int) -> bool:
        """Say whether any of the `clients` of the present round is left; it does not wait for the counter."""
        return bool(self._shared.get_obj()[1] < clients)

    def taken(self, round_number: int, count: int, clients: int) -> Iterator[range]:
        """Take clients of a round, `count` at a time, as they are trained, until none is left."""
        while own := self.take(round_number, count, clients):
            yield own


_ours: list[Claims] = []


def share(claims: Claims) -> None:
    """Have `ours` return this counter, in this process."""
    _ours[:] = [claims]


def ours() -> Claims:
    """Return the counter that this process shares with others."""
    (claims,) = _ours
    return claims
