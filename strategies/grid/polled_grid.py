"""A proxy round the grid of a deployment that looks for replies often at first, and hands on each as it comes.

Flower's own `send_and_receive` looks every 3 s and holds all replies until the last has come.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator

from flwr.app import Message
from flwr.serverapp import Grid

from fedquit.strategies.flower_internals import limit_pulls
from fedquit.strategies.grid.wrapped_grid import WrappedGrid

SHORTEST, LONGEST = 0.2, 3.0
"""Seconds between two looks."""
LAST = 5.0
"""Seconds at least for the parts of a reply that was announced."""
SHARE = 0.05
"""A pause is this share of the time waited so far: that is by how much looking delays an exchange."""


def pause(waited: float) -> float:
    """Return the seconds until the next look, `waited` seconds after the messages were sent.

    >>> [pause(waited) for waited in (0, 20, 600)]
    [0.2, 1.0, 3.0]
    """
    return min(LONGEST, max(SHORTEST, SHARE * waited))


class PolledGrid(WrappedGrid):
    """Flower's grid, with its own way to wait for replies.

    Args:
        grid: Flower's.
        clock: seconds that never go back.
        sleep: waits for so many seconds.
    """

    def __init__(
        self, grid: Grid, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        super().__init__(grid)
        self._clock, self._sleep = clock, sleep
        self._end = math.inf
        limit_pulls(lambda: max(LAST, self._end - self._clock()))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Send messages, and yield the replies as they come, until all are there or `timeout` seconds are over.

        The last look is after that: what came while a reply was waited for whose parts do not come is not lost.
        """
        waiting = {name for name in self._grid.push_messages(list(messages)) if name}
        began = self._clock()
        self._end = math.inf if timeout is None else began + timeout
        while waiting:
            is_over = self._clock() >= self._end
            for reply in self._grid.pull_messages(set(waiting)):
                waiting.discard(reply.metadata.reply_to_message_id)
                yield reply
            if is_over:
                return
            if waiting:
                now = self._clock()
                self._sleep(max(0.0, min(pause(now - began), self._end - now)))
