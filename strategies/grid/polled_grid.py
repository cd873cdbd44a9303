"""A proxy round the grid of a deployment that looks for replies often at first, and hands on each as it comes.

Flower's own `send_and_receive` looks every 3 s and holds all replies until the last has come.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedquit.strategies.flower_internals import NodeInfo, Run, limit_pulls

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


class PolledGrid(Grid):
    """Flower's grid, with its own way to wait for replies.

    Args:
        grid: Flower's.
        clock: seconds that never go back.
        sleep: waits for so many seconds.
    """

    def __init__(
        self, grid: Grid, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._grid, self._clock, self._sleep = grid, clock, sleep
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

    def get_node_ids(self) -> Iterable[int]:
        """Pass on."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Pass on."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on."""
        return self._grid.pull_messages(message_ids)

    def set_run(self, run: Run) -> None:
        """Pass on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run of the grid beneath."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Build a message; Flower asks to use `Message` instead."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)
