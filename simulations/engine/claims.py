"""Work sharing within a round: a process that is free takes the next clients, so that none waits for another.

To deal clients out beforehand leaves a process idle whenever the system has slowed down the other, and to hand them out
one by one over pipes takes as long as small models train. Here they are taken from counters in shared memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedquit.errors import FedquitError

LOCK_TIMEOUT = 10.0
"""Seconds to wait for the counters, which are held for microseconds: a process that died may have held them."""


def died() -> FedquitError:
    """Return the error for a pool that has lost a worker."""
    return FedquitError("a worker process died, perhaps for lack of memory; continue with --resume and fewer --workers")


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
            FedquitError: a worker has died.
        """
        with self._held():
            self._shared[:] = [self._shared[0] + 1, 0, clients]
            return int(self._shared[0])

    def take(self, round_number: int, count: int, *, last: bool = False) -> range:
        """Take `count` clients of a round: the first that are left, or the last; empty: none is, or the round is over.

        They always begin at a multiple of `count`, so that who are taken together does not depend on who takes.

        Raises:
            FedquitError: a worker has died.
        """
        with self._held():
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

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keep other processes from the counters."""
        if not self._shared.get_lock().acquire(timeout=LOCK_TIMEOUT):
            raise died()
        try:
            yield
        finally:
            self._shared.get_lock().release()

    def are_left(self) -> bool:
        """Say whether any client of the present round is left; it does not wait for the counters."""
        return bool(self._shared.get_obj()[1] < self._shared.get_obj()[2])


_ours: list[Claims] = []


def share(claims: Claims) -> None:
    """Have `ours` return these, in this process."""
    _ours[:] = [claims]


def ours() -> Claims:
    """Return those that this process shares with others."""
    (claims,) = _ours
    return claims
