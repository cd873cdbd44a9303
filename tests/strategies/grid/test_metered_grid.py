"""The account: every byte that travels, to the client it travelled to or from."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedquit.errors import FedquitError
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.strategies.cost_log.cost_log import Costs, Traffic
from fedquit.strategies.cost_log.cost_rows import Row, read_rows
from fedquit.strategies.cost_log.message_size import measured
from fedquit.strategies.grid.array_record import record_of
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.grid.node_identity import Member
from fedquit.strategies.rounds.train import Train

Connect = Callable[..., MeteredGrid]

START = {"w": np.arange(40, dtype=np.float32)}


class LostNodes(InProcessGrid):
    """A grid whose errors name another node as their sender, as Flower's do for a node that is lost."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for reply in super().send_and_receive(messages, timeout=timeout):
            if reply.has_error():
                reply.metadata.__dict__["_src_node_id"] = 1
            yield reply


@pytest.fixture
def answer(reply_with: Any) -> Callable[[int, Message], RecordDict]:
    return lambda client, _message: RecordDict(reply_with(START, client + 1))


@pytest.fixture
def connect(connect: Connect, tmp_path: Path) -> Connect:
    """Connect as elsewhere, with an account that keeps its rows."""

    def connected(*args: Any, **how: Any) -> MeteredGrid:
        grid = connect(*args, **how)
        grid.costs = Costs(tmp_path / "costs.csv")
        return grid

    return connected


def rows_of(grid: MeteredGrid) -> list[Row]:
    assert grid.costs.path is not None
    return list(read_rows(grid.costs.path))


def num_bytes(content: RecordDict) -> int:
    return sum(record.count_bytes() for record in content.values())


def test_every_round_is_logged_in_both_directions(connect: Connect, reply_with: Any) -> None:
    down, up, by_client = Counter[int](), Counter[int](), Counter[int]()
    server_round, traffic = 0, {}

    def counted(client: int, message: Message) -> RecordDict:
        content = RecordDict(
            {**reply_with(START, client + 1), "note": ConfigRecord({"text": "x" * (1 + 100 * client)})}
        )
        down[server_round] += num_bytes(message.content)
        up[server_round] += num_bytes(content)
        by_client[client] += num_bytes(content)
        return content

    grid = connect(counted)
    for server_round in (1, 2):
        grid.begin("train", server_round, excluded=[] if server_round == 1 else [2])
        Train(grid, seed=0).round(server_round, START, {"lr": 0.5})
        traffic[server_round] = grid.costs.of("train", server_round)
    assert traffic == {1: Traffic(down[1], up[1]), 2: Traffic(down[2], up[2])}
    assert grid.costs.of("train") == Traffic(down.total(), up.total())
    sent_up = [(row.node, row.payload_bytes) for row in rows_of(grid) if row.direction == "up"]
    assert {node: sum(size for n, size in sent_up if n == node) for node in by_client} == by_client
    assert sum(row.payload_bytes for row in rows_of(grid)) == grid.costs.of("train").total
    assert down[1] > down[2] > 0


def test_a_reply_that_cannot_be_counted_does_not_end_the_round(connect: Connect, answer: Any) -> None:
    def one_odd(client: int, message: Message) -> RecordDict:
        content = RecordDict(answer(client, message))
        if client == 1:
            content["note"] = ConfigRecord({"text": ""})  # Flower's own count_bytes raises for an empty text
        return content

    _, metrics = Train(connect(one_odd), seed=0).round(1, START, {})
    assert metrics["clients"] >= 2


def test_an_error_that_names_another_node_is_the_asked_clients(connect: Connect, answer: Any) -> None:
    def one_lost(client: int, message: Message) -> RecordDict:
        if client == 1:
            raise TimeoutError("gone")
        return RecordDict(answer(client, message))

    grid = connect(one_lost, engine=LostNodes)
    heard: dict[int, str | None] = {}
    grid.begin("train", 1)
    Train(grid, seed=0, on_reply=heard.__setitem__).round(1, START, {})
    assert heard[1] == "TimeoutError: gone"
    assert [(row.direction, row.payload_bytes > 0) for row in rows_of(grid) if row.node == 1] == [("down", True)]


def test_members_are_known_by_what_they_say_they_are(connect: Connect, answer: Any) -> None:
    grid = connect(answer, (10, 20, 30), (2, 0, 1))
    nodes = grid.get_node_ids()
    assert [grid.members[node] for node in nodes] == [Member(0, 10), Member(1, 20), Member(2, 30)]
    assert nodes != sorted(nodes)
    assert [grid.node_of(client) for client in range(3)] == nodes


def test_excluded_clients_are_hidden_until_the_next_round_begins(connect: Connect, answer: Any) -> None:
    grid = connect(answer)
    everyone = grid.get_node_ids()
    grid.begin("recover", 2, excluded=[1])
    assert grid.get_node_ids() == [everyone[0], everyone[2]]
    grid.begin("train", 3)
    assert grid.get_node_ids() == everyone


def test_pushed_and_pulled_messages_are_logged_too(connect: Connect, answer: Any) -> None:
    grid = connect(answer)
    grid.begin("train", 1)
    node = grid.node_of(2)
    message = Message(RecordDict({"arrays": record_of(START)}), node, "train")
    names = list(grid.push_messages([message]))
    replies = list(grid.pull_messages(names))
    assert grid.costs.of("train") == Traffic(num_bytes(message.content), num_bytes(replies[0].content))


def test_serialised_bytes_of_a_row_are_those_of_its_message(connect: Connect, answer: Any) -> None:
    sent: dict[int, int] = {}

    def noted(client: int, message: Message) -> RecordDict:
        sent[client] = next(measured([message])).total()
        return RecordDict(answer(client, message))

    grid = connect(noted)
    grid.begin("train", 1)
    Train(grid, seed=0).round(1, START, {"lr": 0.5})
    assert {row.node: row.wire_bytes for row in rows_of(grid) if row.direction == "down"} == sent
    assert all(row.wire_bytes > row.payload_bytes for row in rows_of(grid))


def test_identical_models_and_replies_are_counted_once(connect: Connect, answer: Any) -> None:
    def identical(client: int, message: Message) -> RecordDict:
        content = RecordDict(answer(0, message))
        if client == 2:
            content["arrays"] = record_of({"w": START["w"] + 1})
        return content

    grid = connect(identical)
    grid.begin("train", 1)
    Train(grid, seed=0).round(1, START, {})
    down, up = ([row for row in rows_of(grid) if row.direction == way] for way in ("down", "up"))
    model = 4 * 40
    for rows, alike in ((down, {1, 2}), (up, {1})):
        assert [row.node for row in rows] == [0, 1, 2], "in the order of the nodes, whoever answers first"
        for row in rows:
            saved = row.wire_bytes - row.deduplicated_bytes
            assert (saved > model) == (row.node in alike)


def test_impossible_processor_seconds_are_dropped_and_the_reply_is_used(connect: Connect, answer: Any) -> None:
    said: list[Any] = [1e-4, -1.0, float("nan"), 1e9]

    def timed(client: int, message: Message) -> RecordDict:
        content = RecordDict(answer(client, message))
        content.metric_records["metrics"]["cpu-seconds"] = said[client]
        return content

    grid = connect(timed, sizes=(1, 1, 1, 1))
    grid.begin("train", 1)
    told = dict[int, dict[str, Any]]()
    grid.on_doubted = told.__setitem__
    _, summary = Train(grid, seed=0).round(1, START, {})
    assert (summary["clients"], summary["device-seconds"]) == (4, 1e-4)
    assert [row.device_seconds for row in rows_of(grid)] == [0, 0, 0, 0, 1e-4, 0, 0, 0]
    assert {client: (facts["what"], facts["said"]) for client, facts in told.items()} == {
        1: ("cpu-seconds", "-1.0"), 2: ("cpu-seconds", "nan"), 3: ("cpu-seconds", "1000000000.0")
    }  # fmt: skip
    assert all(row.seconds > 0 for row in rows_of(grid) if row.direction == "up")


def test_evaluation_is_a_phase_of_its_own(connect: Connect, answer: Any) -> None:
    grid = connect(answer)
    grid.begin("train", 4)
    question = RecordDict({"metrics": MetricRecord({"x": 1})})
    list(grid.send_and_receive([Message(question, grid.node_of(0), "evaluate")]))
    assert grid.costs.of("train").total == 0
    assert grid.costs.of("evaluate", 4) == Traffic(num_bytes(question), 0), "the device has no such function"


def test_a_node_that_cannot_identify_itself_gives_one_error() -> None:
    empty, silent = ClientApp(), ClientApp()

    @empty.query()
    def describe(message: Message, context: Any) -> Message:
        return Message(RecordDict(), reply_to=message)

    for app in (empty, silent):
        with InProcessGrid(2, {}, client_app=app) as grid, pytest.raises(FedquitError, match="could not join"):
            MeteredGrid(grid, patience=600)


@pytest.mark.parametrize("patience", [None, math.inf, math.nan, 0.0, -1.0, "60"])
def test_a_grid_refuses_to_wait_for_ever(patience: Any) -> None:
    grid: Any = MeteredGrid
    with InProcessGrid(1, {}, client_app=ClientApp()) as beneath:
        with pytest.raises(TypeError, match="patience"):
            grid(beneath, {})
        with pytest.raises(ValueError, match="wait for ever"):
            grid(beneath, {}, patience=patience)
        told = grid(beneath, {}, patience=60)
        with pytest.raises(ValueError, match="wait for ever"):
            told.patience = patience
        assert told.patience == 60
        if patience is not None:
            with pytest.raises(ValueError, match="wait for ever"):
                list(told.send_and_receive([], timeout=patience))


def test_a_timeout_error_of_the_grid_is_not_taken_for_a_silent_client() -> None:
    class Broken(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            yield from itertools.islice(super().send_and_receive(messages, timeout=timeout), 1)
            raise TimeoutError("the shared folder did not answer")

    with Broken(2, {}, client_app=ClientApp()) as beneath:
        grid = MeteredGrid(beneath, {node: Member(n, 1) for n, node in enumerate(beneath.get_node_ids())}, patience=60)
        replies = grid.send_and_receive([Message(RecordDict(), node, "train") for node in grid.get_node_ids()])
        next(replies)
        with pytest.raises(TimeoutError, match="the shared folder did not answer"):
            next(replies)


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_every_exchange_has_a_limit(timeout: float | None) -> None:
    limits = list[float | None]()

    class Limits(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            limits.append(timeout)
            return super().send_and_receive(messages, timeout=timeout)

    with Limits(1, {}, client_app=ClientApp()) as beneath:
        grid = MeteredGrid(beneath, {}, patience=60)
        assert list(grid.send_and_receive([], timeout=timeout)) == []
    assert limits == [timeout or 60]
