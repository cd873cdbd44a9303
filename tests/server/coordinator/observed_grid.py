"""A rehearsed deployment whose replies a test can change, and what its ledger says afterwards."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from flwr.app import Message

from fedquit.server.ledger import Ledger, Step
from fedquit.strategies.grid.array_record import record_of
from tests.harness.rehearsal import KitGrid, Rehearsal

Make = Callable[..., Rehearsal]

Change = Callable[[Message, Message], Message | None]


class Faulty(KitGrid):
    """A grid on which `change` decides what becomes of each reply, and which keeps what was sent to whom.

    Attributes:
        change: from the message and its reply to the reply that arrives; None: none does.
        sent: (message type, member) of every message.
    """

    change: Change = staticmethod(lambda _message, reply: reply)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sent: list[tuple[str, int]] = []

    def member(self, message: Message) -> int:
        return self._members[message.metadata.dst_node_id]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in list(messages):
            self.sent.append((message.metadata.message_type, self.member(message)))
            for reply in super().send_and_receive([message], timeout=timeout):
                changed = self.change(message, reply)
                if changed is not None:
                    yield changed


def grid_of(rehearsal: Rehearsal, change: Change | None = None) -> Faulty:
    grid = Faulty(rehearsal.kits(), rehearsal.federation.settings().run_config(), "fedquit.client.app:app")
    if change:
        grid.change = change
    return grid


@contextlib.contextmanager
def read(rehearsal: Rehearsal) -> Iterator[Ledger]:
    with rehearsal.ledger() as ledger:
        yield ledger
        assert ledger.check_chain() == []


def kinds(rehearsal: Rehearsal) -> list[str]:
    with read(rehearsal) as ledger:
        return [event.kind for event in ledger.events()]


def steps(rehearsal: Rehearsal) -> list[Step]:
    with read(rehearsal) as ledger:
        return ledger.steps()


def members(step: Step) -> list[int]:
    return [given.member for given in step.contributions]


def spoilt(message: Message, reply: Message, value: float) -> Message:
    """Return the reply with every number of its model set to `value`."""
    arrays = {name: np.full_like(a.numpy(), value) for name, a in reply.content.array_records["arrays"].items()}
    reply.content["arrays"] = record_of(arrays)
    return reply
