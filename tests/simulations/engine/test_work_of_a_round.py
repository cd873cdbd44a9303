"""What a round costs: work that depends on the clients it asks, counted and not timed."""

import itertools
import os
import resource
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedquit.client.app import app as client_app
from fedquit.client.data.build_data_and_model import initial_model
from fedquit.client.device import device as device_module
from fedquit.errors import FullDiskError
from fedquit.server.app import make_app
from fedquit.server.run.run_folder import RunFolder
from fedquit.settings import Settings
from fedquit.simulations.engine import parcels, worker_pool
from fedquit.simulations.engine.inprocess import FIRST_NODE_ID, InProcessGrid
from fedquit.strategies.grid.array_record import record_of
from fedquit.unlearning.tensors.convert import arrays_of

MANY = 100_000
WORKERS = 2
counting = ClientApp()


@counting.train()
def count(message: Message, context: Context) -> Message:
    """Say what came, and how often this process has read a file of records that messages share."""
    del context
    model = message.content.array_records["arrays"]
    said: dict[str, Any] = {
        "process": os.getpid(),
        "read": parcels._read.cache_info().misses,
        "sum": float(model["w"].numpy().sum()),
        "client": message.content.config_records["config"]["client"],
    }
    order = ConfigRecord({"records": list(message.content)})
    return Message(RecordDict({"metrics": MetricRecord(said), "order": order}), reply_to=message)


@pytest.fixture(scope="module")
def pool() -> Iterator[InProcessGrid]:
    """Two worker processes with the counting app of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        with InProcessGrid(40, {}, workers=WORKERS, client_app="test_work_of_a_round:counting") as grid:
            yield grid


def test_where_temporary_files_have_no_room_one_line_names_the_way_out(pool: InProcessGrid, tmp_path: Path) -> None:
    messages = model_to(pool.get_node_ids())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    try:
        with pytest.raises(FullDiskError) as failed, parcels.common_records(messages, tmp_path):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    line = str(failed.value)
    assert line.startswith(f"cannot write {tmp_path}: File too large (or set TMPDIR to a folder with more room); make")
    assert "\n" not in line
    assert not list(tmp_path.iterdir()), "half a file fills the disk too"


def model_to(nodes: Iterable[int], value: float = 1.0) -> list[Message]:
    record = ArrayRecord({"w": record_of({"w": np.full(9, value)})["w"]})
    configs = {node: ConfigRecord({"client": node - FIRST_NODE_ID}) for node in nodes}
    return [Message(RecordDict({"arrays": record, "config": configs[n]}), n, "train") for n in configs]


def said(reply: Message, key: str) -> Any:
    assert not reply.has_error(), reply.error.reason
    return reply.content.metric_records["metrics"][key]


def test_the_model_goes_to_each_worker_once_a_round(pool: InProcessGrid) -> None:
    before = Counter[int]()
    for number in range(1, 4):
        read: dict[int, int] = {}
        for reply in pool.send_and_receive(model_to(pool.get_node_ids(), float(number))):
            assert said(reply, "sum") == 9 * number, "a worker has the model of another round"
            read[said(reply, "process")] = said(reply, "read")
        assert all(after - before[process] <= 1 for process, after in read.items()), "for 40 clients, and 2 workers"
        before.update({process: after - before[process] for process, after in read.items()})


def test_no_file_of_a_round_is_left_behind(pool: InProcessGrid) -> None:
    assert pool._pool is not None
    replies = pool.send_and_receive(model_to(pool.get_node_ids()))
    next(replies)
    assert list(pool._pool.folder.iterdir())
    list(replies)
    assert not list(pool._pool.folder.iterdir())


def test_a_message_arrives_as_it_was_sent_and_stays_as_it_is(pool: InProcessGrid) -> None:
    messages = model_to(pool.get_node_ids())
    contents = [dict(message.content) for message in messages]
    replies = list(pool.send_and_receive(messages))
    assert [dict(message.content) for message in messages] == contents
    assert {tuple(r.content.config_records["order"]["records"]) for r in replies} == {("arrays", "config")}  # type: ignore[arg-type]
    clients = {reply.metadata.src_node_id - FIRST_NODE_ID: said(reply, "client") for reply in replies}
    assert clients == {client: client for client in range(40)}
    assert {reply.metadata.reply_to_message_id for reply in replies} == {m.metadata.message_id for m in messages}


def test_replies_that_nobody_takes_do_not_pile_up(pool: InProcessGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pool._pool is not None
    handed = list[int]()
    packed = worker_pool._packed

    def counted(function: Any, parcel: parcels.Parcel) -> Any:
        handed.append(len(parcel.asked))
        return packed(function, parcel)

    monkeypatch.setattr(worker_pool, "_packed", counted)
    replies = pool.send_and_receive(model_to(pool.get_node_ids()))
    next(replies)
    assert len(handed) <= 2 * WORKERS, "parcels are handed out only as replies are taken"
    list(replies)
    assert sum(handed) == 40


def test_contexts_are_made_for_the_clients_that_a_round_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[int]()
    context_of = InProcessGrid.context_of

    def counted(self: InProcessGrid, node_id: int) -> Context:
        made.append(node_id)
        return context_of(self, node_id)

    monkeypatch.setattr(InProcessGrid, "context_of", counted)
    with InProcessGrid(MANY, {}, client_app=counting) as grid:
        asked = [FIRST_NODE_ID + client for client in (7, 99_999)]
        assert len(list(grid.send_and_receive(model_to(asked)))) == len(made) == 2
        assert not grid._contexts, "no state came back, so nothing is kept of who was asked"
        assert len(grid.get_node_ids()) == MANY


def test_clients_that_no_round_asks_are_sent_nothing_and_cut_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, cut = Counter[str](), list[bytes]()

    class Spied(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            first, second = itertools.tee(messages)
            sent.update(message.metadata.message_type for message in first)
            yield from super().send_and_receive(second, timeout=timeout)

    def counted(key: Any, index: bytes) -> Any:
        cut.append(index)
        return original(key, index)

    original = device_module._cut
    monkeypatch.setattr(device_module, "_cut", counted)
    settings = Settings.read(
        {"clients": 400, "scheme": "iid", "model": "mlp", "fraction": 0.01, "rounds": 2, "method": "continue"}
        | {"recover": "budget", "recover-rounds": 1, "reference": "none"}
    )
    folder = RunFolder.create(tmp_path / "run", settings)
    try:
        with Spied(settings.clients, settings.run_config()) as grid:
            grid.serve(make_app(folder, lambda _event: None))
    finally:
        folder.release()
    assert sent == {"train": 3 * 4}, "nobody is asked who it is, in three rounds of four clients each"
    assert len(cut) == 3 * 4


def test_the_settings_of_a_run_are_checked_once_however_many_messages_come(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(clients=20, model="mlp", scheme="iid", seed=1234)
    read = list[str]()
    original = Settings.read.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Settings], given: Any, source: str = "settings") -> Settings:
        read.append(source)
        found: Settings = original(cls, given, source)
        return found

    monkeypatch.setattr(Settings, "read", classmethod(counted))
    record = record_of(arrays_of(initial_model(settings, 0).state_dict()))
    with InProcessGrid(20, settings.run_config(), client_app=client_app) as grid:
        order = ConfigRecord({"lr": 0.1, "seed": 1, "server-round": 1})
        messages = [Message(RecordDict({"arrays": record, "config": order}), n, "train") for n in grid.get_node_ids()]
        assert not any(reply.has_error() for reply in grid.send_and_receive(messages))
    assert read.count("run config") == 1


def test_a_copy_with_another_value_has_another_key() -> None:
    settings = Settings(seed=3)
    assert dict(settings.key())["seed"] == 3
    assert dict(settings.model_copy(update={"seed": 4}).key())["seed"] == 4
    assert settings.model_copy().key() == settings.key()


def test_a_file_that_cannot_be_removed_yet_stops_no_round(pool: InProcessGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_use(*_: object, **_named: object) -> None:
        raise PermissionError("a worker reads it")  # what Windows says

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", in_use)
        assert len(list(pool.send_and_receive(model_to(pool.get_node_ids())))) == 40
    assert pool._pool is not None
    for left in pool._pool.folder.iterdir():
        left.unlink()
