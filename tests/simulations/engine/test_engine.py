"""The in-process engine: a Flower grid whose workers never change the result, and never outlive it."""

import contextlib
import gc
import os
import signal
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedquit.client.data.build_data_and_model import initial_model
from fedquit.errors import FedquitError
from fedquit.settings import Settings
from fedquit.simulations.engine.inprocess import FIRST_NODE_ID, InProcessGrid
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.grid.node_identity import Member
from fedquit.strategies.rounds.train import Train
from fedquit.unlearning.tensors.convert import arrays_of
from tests.harness.waiting import until

tiny = ClientApp()


@tiny.train()
def obey(message: Message, context: Context) -> Message:
    """Do what the message says, and say how often this node was asked."""
    order, argument = message.content.config_records["config"]["do"], message.content.config_records["config"]["with"]
    client = int(context.node_config["partition-id"])
    memory = context.state.metric_records.setdefault("memory", MetricRecord({"asked": 0}))
    asked = int(memory["asked"]) + 1  # type: ignore[arg-type]
    memory["asked"] = asked
    if order == "wait" and client == 0:
        Path(str(argument) + ".process").write_text(str(os.getpid()))
        until(Path(str(argument)).exists, "sign to go on")
    elif order == "raise" and client == 1:
        raise LookupError("no such sample")
    elif order == "exit" and client == 1:
        sys.exit(3)
    elif order == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif order == "nothing" and client == 1:
        return None  # type: ignore[return-value]
    metrics = MetricRecord({"client": client, "asked": asked, "process": os.getpid()})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def orders(grid: InProcessGrid, do: str = "answer", argument: str = "") -> list[Message]:
    told = ConfigRecord({"do": do, "with": argument})
    return [Message(RecordDict({"config": told}), node, "train") for node in grid.get_node_ids()]


def said(reply: Message, key: str) -> Any:
    return reply.content.metric_records["metrics"][key]


@pytest.fixture(scope="module")
def pool() -> Iterator[InProcessGrid]:
    """Two worker processes with the tiny app of this file."""
    with two_workers() as grid:
        yield grid


@pytest.fixture
def doomed() -> Iterator[InProcessGrid]:
    """Two worker processes for one test alone."""
    with two_workers() as grid:
        yield grid


@contextlib.contextmanager
def two_workers() -> Iterator[InProcessGrid]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        with InProcessGrid(3, {}, workers=2, client_app="test_engine:tiny") as grid:
            yield grid


@pytest.fixture
def alone() -> Iterator[InProcessGrid]:
    """One worker: this process."""
    with InProcessGrid(3, {}, client_app=tiny) as grid:
        yield grid


def test_any_number_of_workers_gives_the_same_model_bit_for_bit() -> None:
    settings = Settings(clients=3, model="mlp", samples=150, batch_size=16)
    start = arrays_of(initial_model(settings, 0).state_dict())
    models = []
    for workers in (1, 2):
        with InProcessGrid(3, settings.run_config(), workers=workers) as grid:
            arrays: Any = start
            strategy = Train(MeteredGrid(grid, patience=600), seed=4)
            for number in (1, 2):
                arrays, _ = strategy.round(number, arrays, {"lr": 0.1})
        models.append({name: array.tobytes() for name, array in arrays.items()})
    assert models[0] == models[1]


def test_replies_come_as_they_are_done_from_processes_of_their_own(pool: InProcessGrid, tmp_path: Path) -> None:
    order = []
    for reply in pool.send_and_receive(orders(pool, "wait", str(tmp_path / "go"))):
        order.append(said(reply, "client"))
        assert said(reply, "process") != os.getpid()
        if sorted(order) == [1, 2]:
            (tmp_path / "go").touch()
    assert sorted(order[:2]) == [1, 2]
    assert order[2:] == [0]


def test_a_client_that_takes_too_long_is_the_one_without_a_reply(doomed: InProcessGrid, tmp_path: Path) -> None:
    list(doomed.send_and_receive(orders(doomed)))  # both workers are there
    members = {node: Member(n, 1) for n, node in enumerate(doomed.get_node_ids())}
    metered = MeteredGrid(doomed, members, patience=2.0)
    replies = metered.send_and_receive(orders(doomed, "wait", str(tmp_path / "never")))
    errors = {metered.client_of(reply): reply.error.reason if reply.has_error() else "" for reply in replies}
    assert errors == {0: "no answer within 2 s", 1: "", 2: ""}


@pytest.mark.parametrize("engine", ["pool", "alone"])
def test_a_nodes_state_survives_from_message_to_message(engine: str, request: pytest.FixtureRequest) -> None:
    grid: InProcessGrid = request.getfixturevalue(engine)
    before = {said(reply, "client"): said(reply, "asked") for reply in grid.send_and_receive(orders(grid))}
    for more in (1, 2):
        replies = grid.send_and_receive(orders(grid)[:2])
        assert {said(r, "client"): said(r, "asked") for r in replies} == {c: before[c] + more for c in (0, 1)}
    replies = grid.send_and_receive(orders(grid))
    assert {said(r, "client"): said(r, "asked") - before[said(r, "client")] for r in replies} == {0: 3, 1: 3, 2: 1}


@pytest.mark.parametrize("do", ["raise", "exit", "nothing"])
@pytest.mark.parametrize("engine", ["pool", "alone"])
def test_what_a_client_app_does_wrong_is_an_error_reply(engine: str, do: str, request: pytest.FixtureRequest) -> None:
    grid: InProcessGrid = request.getfixturevalue(engine)
    try:
        replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(orders(grid, do))}
    except SystemExit as error:
        pytest.fail(f"the client's exit ended the server: {error!r}")
    assert [replies[FIRST_NODE_ID + client].has_error() for client in range(3)] == [False, True, False]
    if do == "raise":
        assert replies[FIRST_NODE_ID + 1].error.reason == "LookupError: no such sample"


def test_a_state_changed_before_the_error_is_kept(alone: InProcessGrid) -> None:
    list(alone.send_and_receive(orders(alone, "raise")))
    assert [said(reply, "asked") for reply in alone.send_and_receive(orders(alone))] == [2, 2, 2]


def test_one_worker_runs_clients_on_demand_and_holds_one_reply() -> None:
    held: list[weakref.ref[Message]] = []
    app = ClientApp()

    @app.train()
    def answer(message: Message, context: Context) -> Message:
        gc.collect()
        assert not any(reply() for reply in held)
        reply = Message(RecordDict({"metrics": MetricRecord({"n": 1})}), reply_to=message)
        held.append(weakref.ref(reply))
        return reply

    with InProcessGrid(4, {}, client_app=app) as grid:
        replies = grid.send_and_receive(orders(grid))
        assert held == []
        for number in range(1, 5):
            assert not next(replies).has_error()
            assert len(held) == number


def test_each_reply_names_the_message_it_answers(alone: InProcessGrid) -> None:
    messages = orders(alone)
    replies = list(alone.send_and_receive(messages))
    assert [r.metadata.reply_to_message_id for r in replies] == [m.metadata.message_id for m in messages]
    assert len({m.metadata.message_id for m in (*messages, *replies)}) == 6


def test_pushed_messages_can_be_pulled_once(pool: InProcessGrid) -> None:
    names = pool.push_messages(orders(pool))
    pulled: list[Message] = []

    def all_pulled() -> bool:
        pulled.extend(pool.pull_messages(names))
        return len(pulled) >= 3

    until(all_pulled, "replies")
    assert sorted(said(reply, "client") for reply in pulled) == [0, 1, 2]
    assert pool.pull_messages(names) == []


def test_a_worker_that_dies_is_one_error_with_the_way_out(doomed: InProcessGrid) -> None:
    with pytest.raises(FedquitError, match=r"worker process died.*--resume.*--workers"):
        list(doomed.send_and_receive(orders(doomed, "die")))
    with pytest.raises(FedquitError, match="worker process died"):
        list(doomed.send_and_receive(orders(doomed)))


def test_workers_end_with_the_grid_even_in_the_middle_of_work(doomed: InProcessGrid, tmp_path: Path) -> None:
    processes = {said(reply, "process") for reply in doomed.send_and_receive(orders(doomed))}
    doomed.push_messages(orders(doomed, "wait", str(tmp_path / "never")))
    at_work = tmp_path / "never.process"
    until(lambda: at_work.exists() and at_work.read_text(), "process at work")
    processes.add(int(at_work.read_text()))
    doomed.close()
    until(lambda: not any(map(is_alive, processes)), "end of the workers")


def is_alive(process: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def test_worker_processes_need_an_app_they_can_import() -> None:
    with pytest.raises(ValueError, match=r"package\.module:name"):
        InProcessGrid(2, {}, workers=2, client_app=tiny)


def test_a_client_app_that_is_not_there_is_an_error_reply_that_names_it() -> None:
    with InProcessGrid(1, {}, client_app="fedquit.client.app:nothing") as grid:
        (reply,) = grid.send_and_receive(orders(grid))
    assert "nothing" in str(reply.error.reason)
