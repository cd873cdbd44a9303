"""How a deployment waits for replies: often at first, each handed on when it comes, never longer than allowed."""

import time
from collections.abc import Iterable

import numpy as np
import pytest
from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError
from flwr.superlink.grid import http_grid

from fedquit.strategies.cost_log.message_size import payload_of
from fedquit.strategies.flower_internals import PULL_PAUSE, NodeInfo, Run, become_server_task
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.grid.node_identity import Member
from fedquit.strategies.grid.polled_grid import LONGEST, PolledGrid


class Slow(Grid):
    """A grid whose nodes reply after so many seconds of a made clock; a message to node 0 cannot be sent."""

    def __init__(self, after: dict[int, float]) -> None:
        self.now, self.looks, self._after = 0.0, 0, after
        self._sent: dict[str, Message] = {}

    def set_run(self, run: Run) -> None: ...

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *_: object, **__: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self._after)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"to {message.metadata.dst_node_id}"
            self._sent[message.metadata.message_id] = message
        return [name if self._sent[name].metadata.dst_node_id else None for name in self._sent]  # type: ignore[misc]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.looks += 1
        there = [self._sent[name] for name in sorted(message_ids)]
        return [
            Message(RecordDict(), reply_to=message)
            for message in there
            if self.now >= self._after[message.metadata.dst_node_id]
        ]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def exchange(grid: Slow, *nodes: int, timeout: float | None = None) -> list[tuple[str, float]]:
    """Return whose reply came when."""
    become_server_task(1)
    polled = PolledGrid(grid, clock=lambda: grid.now, sleep=grid.sleep)
    messages = [Message(RecordDict(), node, "train") for node in nodes]
    replies = polled.send_and_receive(messages, timeout=timeout)
    return [(reply.metadata.reply_to_message_id, grid.now) for reply in replies]


def test_a_reply_is_handed_on_when_it_comes_not_when_all_have_come() -> None:
    (first, early), (second, late) = exchange(Slow({1: 0.9, 2: 300.0}), 1, 2)
    assert (first, second) == ("to 1", "to 2")
    assert 0.9 <= early < 0.9 + 0.3
    assert 300 <= late < 300 + LONGEST


@pytest.mark.parametrize("seconds", [0.3, 3.0, 30.0, 300.0])
def test_polling_adds_a_twentieth_of_an_exchange_and_slows_down_with_time(seconds: float) -> None:
    grid = Slow({1: seconds})
    [(_, came)] = exchange(grid, 1)
    assert came - seconds <= max(0.2, seconds * 0.05) + 0.01
    assert grid.looks < 200


def test_who_does_not_reply_is_waited_for_no_longer_than_told() -> None:
    grid = Slow({1: 0.0, 2: 1e9})
    assert [name for name, _ in exchange(grid, 1, 2, timeout=45.0)] == ["to 1"]
    assert grid.now == pytest.approx(45.0)


def test_a_message_that_could_not_be_sent_is_not_waited_for() -> None:
    assert exchange(Slow({0: 0.0, 1: 0.0}), 0, 1) == [("to 1", 0.0)]


class Announcing(Slow):
    """A grid whose node 1 announces a reply whose parts never come: pulled as Flower pulls them, in real time."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for name in sorted(message_ids):
            if name == "to 1":
                with pytest.raises(ObjectPullError):
                    vars(http_grid)["pull_objects"](["part"], self.unavailable)
                yield Message(Error(1, "its parts do not come"), reply_to=self._sent[name])
        self.now = time.monotonic()
        yield from super().pull_messages([name for name in message_ids if name != "to 1"])

    def unavailable(self, name: str) -> bytes:
        raise ObjectUnavailableError(name)


def test_a_reply_whose_parts_never_come_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedquit.strategies.grid.polled_grid.LAST", 0.5)
    become_server_task(1)
    began = time.monotonic()
    grid = Announcing({1: 0.0, 2: began + 2.0})
    polled = PolledGrid(grid)
    replies = polled.send_and_receive([Message(RecordDict(), node, "train") for node in (1, 2)], timeout=3.0)
    assert [(reply.metadata.reply_to_message_id, reply.has_error()) for reply in replies] == [
        ("to 1", True), ("to 2", False),
    ]  # fmt: skip
    assert 3.0 <= time.monotonic() - began < 3.0 + 4 * PULL_PAUSE


class Losing(Slow):
    """A grid that loses the first messages on their way to node 1; every message has a name of its own."""

    def __init__(self, lost: int, after: dict[int, float]) -> None:
        super().__init__(after)
        self.times: list[float] = []
        self._lost = lost

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for message in messages:
            names.append(f"{len(self._sent)} to {message.metadata.dst_node_id}")
            message.metadata.__dict__["_message_id"] = names[-1]
            self._sent[names[-1]] = message
            if message.metadata.dst_node_id == 1:
                self.times.append(self.now)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        to_first = [name for name in self._sent if name.endswith("to 1")]
        return super().pull_messages(set(message_ids) - set(to_first[: self._lost]))


def lossy_exchange(
    kind: str, lost: int, timeout: float, first: float = 0.0
) -> tuple[Losing, list[Message], list[Message]]:
    """Return the grid, the replies, and what was sent again."""
    become_server_task(1)
    grid, again = Losing(lost, {1: first, 2: 0.0}), list[Message]()
    polled = PolledGrid(grid, clock=lambda: grid.now, sleep=grid.sleep)
    polled.on_repeat = again.append
    messages = [Message(RecordDict(), node, kind) for node in (1, 2)]
    replies = list(polled.send_and_receive(messages, timeout=timeout))
    assert [message for message in again if message is not messages[0]] == [], "it is known by the message first sent"
    return grid, replies, again


def test_a_message_to_forget_that_was_lost_on_its_way_is_sent_again() -> None:
    grid, replies, again = lossy_exchange("train.forget", lost=2, timeout=3600.0)
    assert sorted(reply.metadata.reply_to_message_id for reply in replies) == ["0 to 1", "1 to 2"]
    assert grid.times == pytest.approx([0.0, 300.0, 1200.0], abs=4 * LONGEST)
    assert len(again) == 2
    assert grid.now < 1220


def test_a_device_slow_to_forget_is_sent_few_copies_and_one_reply_is_used() -> None:
    grid, replies, _ = lossy_exchange("train.forget", lost=0, timeout=2 * 3600.0, first=3600.0)
    assert sorted(reply.metadata.reply_to_message_id for reply in replies) == ["0 to 1", "1 to 2"], "each once"
    assert len(grid.times) == 3


def test_a_message_to_train_is_sent_once() -> None:
    grid, replies, again = lossy_exchange("train", lost=1, timeout=600.0)
    assert [reply.metadata.reply_to_message_id for reply in replies] == ["1 to 2"]
    assert (len(grid.times), again) == (1, [])


def test_what_is_sent_again_counts_as_sent() -> None:
    become_server_task(1)
    grid = Losing(1, {1: 0.0, 2: 0.0})
    polled = PolledGrid(grid, clock=lambda: grid.now, sleep=grid.sleep)
    metered = MeteredGrid(polled, {1: Member(0, 10), 2: Member(1, 10)}, patience=3600.0)
    polled.on_repeat = metered.log_again
    metered.begin("forget", 1)
    content = RecordDict({"arrays": ArrayRecord([np.zeros(250, dtype=np.float32)])})
    replies = list(metered.send_and_receive([Message(content, node, "train.forget") for node in (1, 2)]))
    assert sorted(metered.client_of(reply) for reply in replies) == [0, 1]
    sent = metered.costs.of("forget", 1)
    assert sent.down == 3 * payload_of(Message(content, 1, "train.forget"))


class TooLarge(Slow):
    """A grid whose SuperLink takes no message, as it does where they are too large."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return []


def test_messages_that_are_too_large_to_be_sent_are_not_waited_for() -> None:
    assert exchange(TooLarge({1: 0.0, 2: 0.0}), 1, 2, timeout=60.0) == []


def test_a_message_that_is_sent_again_ends_when_the_first_does() -> None:
    become_server_task(1)
    grid = Losing(1, {1: 0.0})
    polled = PolledGrid(grid, clock=lambda: grid.now, sleep=grid.sleep)
    first = Message(RecordDict(), 1, "train.forget", ttl=600.0)
    first.metadata.__dict__["_created_at"] -= 400.0
    assert len(list(polled.send_and_receive([first], timeout=600.0))) == 1
    assert grid._sent["1 to 1"].metadata.ttl == pytest.approx(200.0, abs=60.0)
