"""A deployment that an operator might look at: rounds, and requests in every state that there is."""

import contextlib
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from fedquit.strategies.grid.array_record import record_of
from tests.harness.rehearsal import KitGrid, Rehearsal, rehearse

DAY = 86_400.0


def spoilt(grid: KitGrid, member: int, kind: str) -> None:
    """Have a device answer NaN to messages of a kind."""
    carry = grid.send_and_receive

    def carried(messages: Any, **options: Any) -> Any:
        for message in list(messages):
            for reply in carry([message], **options):
                at = message.metadata
                yield nan(reply) if grid._members[at.dst_node_id] == member and at.message_type == kind else reply

    grid.send_and_receive = carried  # type: ignore[method-assign]


def nan(reply: Message) -> Message:
    arrays = {name: np.full_like(a.numpy(), np.nan) for name, a in reply.content.array_records["arrays"].items()}
    reply.content["arrays"] = record_of(arrays)
    return reply


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    """Trained for a week; one device has left, one had samples forgotten, one cannot be reached and is late."""
    forgetting: dict[str, Any] = {"deadline": 30 * DAY, "device-timeout": 60 * DAY, "fallback": []}
    tables: dict[str, dict[str, Any]] = {
        "schedule": {"every": DAY},
        "forgetting": forgetting,
        "trusted": {"data": "trusted.npz"},
    }
    made = rehearse(tmp_path_factory.mktemp("page") / "made", tables, devices=6, samples=300)
    made.run(made.grid(), rounds=2)
    made.ask(made.signed(1, note="the clinic closes"))
    made.run(made.grid(), rounds=3)
    made.ask(made.signed(2, made.digests(2)[:6]))
    made.run(made.grid(), rounds=4)
    bad = made.grid()
    spoilt(bad, 4, "train")
    made.run(bad, rounds=5)
    made.ask(made.signed(5))
    spoilt(bad, 5, "train.forget")
    made.run(bad, rounds=6)
    grid = made.grid()
    made.ask(made.signed(3))
    grid.away = {3}
    with contextlib.suppress(TimeoutError):
        made.run(grid, rounds=6, turns=3)
    made.clock.pause(26 * DAY)
    made.ask_for_class(7)
    made.clock.pause(5 * DAY)
    with contextlib.suppress(TimeoutError):
        made.run(grid, rounds=6, turns=3)
    return made
