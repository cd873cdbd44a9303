"""Replies that are bad, missing, late or double: left out and named, and the round continues without them."""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from flwr.app import Error, Message

from tests.server.coordinator.observed_grid import Change, Faulty, Make, grid_of, kinds, members, read, spoilt, steps

BAD: dict[str, Change] = {
    "holds NaN or infinity": lambda message, reply: spoilt(message, reply, float("nan")),
    "battery empty": lambda message, reply: Message(Error(2, "battery empty"), reply_to=message),
}
GONE: dict[str, Change] = {
    "Node Unavailable": lambda message, reply: Message(Error(5, "Node Unavailable"), reply_to=message),
    "no answer within 600 s": lambda message, reply: None,
}


@pytest.mark.parametrize(("kind", "reason"), [*(("reply-refused", r) for r in BAD), *(("no-reply", r) for r in GONE)])
def test_a_reply_that_is_bad_or_never_came_is_left_out_and_named_as_what_it_is(
    make: Make, kind: str, reason: str
) -> None:
    rehearsal, changes = make(), BAD | GONE
    grid = grid_of(rehearsal)
    grid.change = lambda message, reply: changes[reason](message, reply) if grid.member(message) == 3 else reply
    rehearsal.run(grid, rounds=1)
    [step] = steps(rehearsal)
    assert (members(step), step.refused) == ([0, 1, 2], 1)
    with read(rehearsal) as ledger:
        [event] = [event for event in ledger.events() if event.kind in ("reply-refused", "no-reply")]
    assert (event.kind, event.member) == (kind, 3)
    assert reason in event.facts["reason"]


def test_a_reply_that_comes_twice_counts_once(make: Make) -> None:
    rehearsal = make()

    class Twice(Faulty):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            for reply in super().send_and_receive(messages, timeout=timeout):
                yield reply
                yield reply

    rehearsal.run(grid_of(rehearsal), rounds=1)
    twice = make()
    grid = Twice(twice.kits(), twice.federation.settings().run_config(), "fedquit.client.app:app")
    twice.run(grid, rounds=1)
    assert steps(twice)[0].model_after == steps(rehearsal)[0].model_after
    with read(twice) as ledger:
        strays = [event for event in ledger.events() if event.kind == "stray-reply"]
    assert sorted((event.member, event.facts["reason"]) for event in strays) == [
        (member, "that message is answered already") for member in range(4)
    ]


class Late(Faulty):
    """A grid on which every exchange begins with the last replies of those before it, each a second time."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.before: list[Message] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        yield from self.before[-15:]
        for reply in super().send_and_receive(messages, timeout=timeout):
            self.before.append(copy.deepcopy(reply))
            yield reply


def test_replies_of_an_earlier_round_or_request_change_nothing_and_are_named(make: Make) -> None:
    ended = []
    for kind in (Faulty, Late):
        rehearsal = make(forgetting={"recover-rounds": 1})
        grid = kind(rehearsal.kits(), rehearsal.federation.settings().run_config(), "fedquit.client.app:app")
        rehearsal.run(grid, rounds=2)
        rehearsal.ask(rehearsal.signed(1, rehearsal.digests(1)[:8]))
        rehearsal.run(grid, rounds=2)
        rehearsal.ask(rehearsal.signed(2))
        rehearsal.run(grid, rounds=3)
        ended.append([(step.phase, step.model_after, members(step)) for step in steps(rehearsal)])
    with read(rehearsal) as ledger:
        strays = [event for event in ledger.events() if event.kind == "stray-reply"]
    assert ended[0] == ended[1]
    assert {event.facts["reason"] for event in strays} == {"it answers no message of this round"}
    assert {(event.facts["phase"], event.facts["kind"]) for event in strays} >= {
        ("train", "train"), ("forget", "evaluate"), ("forget", "train.forget"), ("recover", "train")
    }  # fmt: skip
    assert all(event.member is not None and event.facts["answers"] for event in strays)


def test_a_round_without_a_good_reply_is_logged_and_repeated(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    failures = iter(range(4))
    grid.change = lambda message, reply: (
        spoilt(message, reply, float("inf")) if next(failures, None) is not None else reply
    )
    rehearsal.run(grid, rounds=1)
    assert kinds(rehearsal).count("round-failed") == 1
    assert members(steps(rehearsal)[0]) == [0, 1, 2, 3]


def test_a_node_with_an_unknown_key_is_named_once_and_gets_nothing(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    grid._keys[1000 + 3] = b"no key"
    rehearsal.run(grid, rounds=2)
    assert {member for _, member in grid.sent} == {0, 1, 2}
    assert kinds(rehearsal).count("stranger") == 1
