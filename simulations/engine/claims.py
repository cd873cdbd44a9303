"""Work sharing within a round: a worker that is free takes the next clients, so that no worker waits for another.

To deal clients out beforehand leaves a worker idle whenever the system has slowed down the other, and to hand them out
one by one over pipes takes as long as small models train. Here a worker takes them from a counter in shared memory.
"""

from collections.abc import Iterator
from typing import Any

LOCK_TIMEOUT = 10.0
"""Seconds to wait for the counter, which is held for microseconds: a process that died may have held it."""


class Claims:
    """The clients of a round that nobody has taken, known to all processes of a pool.

    Args:
        context: how they are started.
    """

    def __init__(self, context: Any) -> None:
        self._shared = context.Array("q", 3)  # the round, and the first and the end of those that nobody has taken

    def begin(self, clients: int) -> int:
        """Begin a round, and return its number; of the rounds before, nothing can be taken any more.

        Raises:
            TimeoutError: a process that died has the counter.
        """
        if not self._shared.get_lock().acquire(timeout=LOCK_TIMEOUT):
            raise TimeoutError("the counter of clients is held by a process that died")
        try:
            self._shared[:] = [self._shared[0] + 1, 0, clients]
            return int(self._shared[0])
        finally:
            self._shared.get_lock().release()

    def take(self, round_number: int, count: int, *, last: bool = False) -> range:
        """Take `count` clients of a round: the first that are left, or the last; empty: none is, or the round is over.

        They always begin at a multiple of `count`, so that who are taken together does not depend on who takes.
        """
        with self._shared.get_lock():
            number, first, end = self._shared[:]
            if number != round_number or first >= end:
                return range(0)
            if last:
                self._shared[2] = taken = (end - 1) // count * count
                return range(taken, end)
            self._shared[1] = taken = min(first + count, end)
            return range(first, taken)

    def taken(self, round_number: int, count: int, *, last: bool = False) -> Iterator[range]:
        """Take clients of a round as they are trained, until none is left."""
        while own := self.take(round_number, count, last=last):
            yield own

    def are_left(self) -> bool:
        """Say whether any client of the present round is left; it does not wait for the counter."""
        return bool(self._shared.get_obj()[1] < self._shared.get_obj()[2])


_ours: list[Claims] = []


def share(claims: Claims) -> None:
    """Have `ours` return this counter, in this process."""
    _ours[:] = [claims]


def ours() -> Claims:
    """Return the counter that this process shares with others."""
    (claims,) = _ours
    return claims
