"""A proxy round the grid of a deployment that looks for replies often at first, and hands on each as it comes.

Flower's own `send_and_receive` looks every 3 s and holds all replies until the last has come.

Flower hands a message to a node once: if the connection breaks just then, the message is lost, and node and server wait
for each other. In a round that costs one device's reply. A message to forget would be waited for until the device's
time is up, so it is sent again; a device that has carried it out repeats its reply.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from fedquit.strategies.flower_internals import limit_pulls
from fedquit.strategies.grid.wrapped_grid import WrappedGrid
from fedquit.strategies.rounds.exercise import ACTIONS

SHORTEST, LONGEST = 0.2, 3.0
"""Seconds between two looks."""
LAST = 5.0
"""Seconds at least for the parts of a reply that was announced."""
SHARE = 0.05
"""A pause is this share of the time waited so far: that is by how much looking delays an exchange."""
REPEATED = ACTIONS["forget"]
"""The kind of message that is sent again: devices do it once, however often it comes."""
AGAIN, TIMES = 300.0, 4.0
"""Seconds after which a message is sent again, and by how many times as long it takes for the next: 5, 20, 80 min. A
device that is still at work keeps the copy waiting, in a process of its own."""


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
        sleep: waits for the given number of seconds.

    Attributes:
        on_repeat: called with each message that is sent again.
    """

    def __init__(
        self, grid: Grid, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        super().__init__(grid)
        self._clock, self._sleep = clock, sleep
        self._end = math.inf
        self.on_repeat: Callable[[Message], None] = lambda _message: None
        limit_pulls(lambda: max(LAST, self._end - self._clock()))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Send messages, and yield the replies as they come, until all are there or `timeout` seconds are over.

        The last look is after that: what came while a reply was waited for whose parts do not come is not lost.
        """
        sent = list(messages)
        waiting = self._pushed(sent, sent)
        began = self._clock()
        self._end = math.inf if timeout is None else began + timeout
        repeat_at = began + AGAIN
        while waiting:
            is_over = self._clock() >= self._end
            for reply in self._grid.pull_messages(set(waiting)):
                asked = waiting.get(reply.metadata.reply_to_message_id)
                if asked is None:  # its copy has just been replied to
                    continue
                waiting = {name: message for name, message in waiting.items() if message is not asked}
                reply.metadata.__dict__["_reply_to_message_id"] = asked.metadata.message_id
                yield reply
            if is_over:
                return
            if waiting:
                now = self._clock()
                if now >= repeat_at:
                    waiting |= self._repeated(waiting.values())
                    repeat_at = began + TIMES * (repeat_at - began)
                self._sleep(max(0.0, min(pause(now - began), self._end - now)))

    def _pushed(self, messages: Sequence[Message], stand_for: Sequence[Message]) -> dict[str, Message]:
        """Send messages, and return by the name of each that could be sent which message it stands for."""
        names = self._grid.push_messages(messages)
        return {
            name: message for name, message in zip(names, stand_for, strict=False) if name
        }  # none, if all were too large

    def _repeated(self, waiting: Iterable[Message]) -> dict[str, Message]:
        """Send messages again to which there is no reply, each once, if they may be; see `_pushed`."""
        lost = {id(message): message for message in waiting if message.metadata.message_type == REPEATED}
        for message in lost.values():
            self.on_repeat(message)
        return self._pushed([_copy(message) for message in lost.values()], list(lost.values())) if lost else {}


def _copy(message: Message) -> Message:
    """Return a message with the same content, to the same node, that is a message of its own and ends when it does."""
    about = message.metadata
    left = max(1.0, about.created_at + about.ttl - time.time())
    return Message(message.content, about.dst_node_id, about.message_type, ttl=left, group_id=about.group_id)
