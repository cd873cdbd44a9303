"""Compression in the grid: strategies see models, the wire carries less, and what cannot be decoded is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from fedquit.client.compression.build_compression import Compression
from fedquit.client.compression.codecs import Chain, Slot, chain_of, slot_of
from fedquit.strategies.cost_log.cost_log import Costs
from fedquit.strategies.cost_log.cost_rows import Row, line_of, read_rows
from fedquit.strategies.grid.array_record import arrays_of_record, record_of
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.rounds.train import Train

Model = dict[str, NDArray[np.float32]]
Connect = Callable[..., MeteredGrid]

DRAW = np.random.default_rng(0)
START: Model = {"w": DRAW.normal(size=(30, 40)).astype(np.float32), "b": np.arange(30, dtype=np.float32)}
SLOTS: dict[str, Slot] = {name: slot_of(array) for name, array in START.items()}
UP, DOWN = chain_of("int8+zstd"), chain_of("fp16")


def model_in(message: Message) -> dict[str, NDArray[Any]]:
    return arrays_of_record(message.content.array_records["arrays"])


@pytest.fixture
def answer(reply_with: Any) -> Callable[[int, Message], RecordDict]:
    """Answer as a device does: read the model, move it by `client + 1`, send that coded, and say an error."""

    def answered(client: int, message: Message) -> RecordDict:
        got = DOWN.decode(model_in(message), SLOTS)
        coded = UP.encode({name: array + client + 1 for name, array in got.items()}, got)
        content: RecordDict = reply_with(coded.arrays, client + 1)
        content.metric_records["metrics"]["compression-error"] = [0.25, 0.5, 0.0][client]
        return content

    return answered


@pytest.fixture
def connect(connect: Connect, tmp_path: Path) -> Connect:
    def connected(*args: Any, **how: Any) -> MeteredGrid:
        grid = connect(*args, **how)
        grid.costs, grid.compression = Costs(tmp_path / "costs.csv"), Compression(UP, DOWN)
        return grid

    return connected


def rows_of(grid: MeteredGrid) -> list[Row]:
    assert grid.costs.path is not None
    return list(read_rows(grid.costs.path))


def test_a_strategy_gets_models_and_the_mean_is_of_what_devices_have(connect: Connect, answer: Any) -> None:
    grid = connect(answer)
    grid.begin("train", 1)
    new, metrics = Train(grid, seed=0).round(1, START, {})
    got = DOWN.encode(START).received
    assert metrics["refused"] == 0
    moved = (1 * 1 + 2 * 2 + 3 * 3) / 6
    np.testing.assert_allclose(new["w"], got["w"] + moved, atol=1e-5)
    np.testing.assert_allclose(new["b"], START["b"] + moved, rtol=1e-6)
    assert np.abs(got["w"] - START["w"]).max() > 0


def test_rows_say_what_travelled_and_what_was_saved(connect: Connect, answer: Any) -> None:
    grid = connect(answer)
    grid.begin("train", 1)
    sent = record_of(START).count_bytes()
    Train(grid, seed=0).round(1, START, {})
    plain = {
        way: {r.payload_bytes + r.saved_bytes for r in rows_of(grid) if r.direction == way} for way in ("down", "up")
    }
    saved = [row.saved_bytes for row in rows_of(grid)]
    assert min(saved) > 0.4 * sent
    assert all(sent < size < sent + 200 for sizes in plain.values() for size in sizes)
    assert all(row.wire_bytes < sent for row in rows_of(grid))


def test_the_mean_error_of_a_round_is_known_and_nonsense_is_left_out(connect: Connect, answer: Any) -> None:
    grid = connect(answer)
    assert grid.compression_error("up") is None
    for _ in range(2):
        grid.begin("train", 1)
        Train(grid, seed=0).round(1, START, {})
        assert grid.compression_error("up") == 0.25
        assert grid.compression_error("down") == DOWN.encode(START).error

    def lying(client: int, message: Message) -> RecordDict:
        content: RecordDict = answer(client, message)
        content.metric_records["metrics"]["compression-error"] = [1e30, 0.5, -1.0][client]
        return content

    grid = connect(lying)
    Train(grid, seed=0).round(1, START, {})
    assert grid.compression_error("up") == 0.5


@pytest.mark.parametrize(
    ("name", "bad", "why"),
    [
        ("w/levels", np.frombuffer(b"\x28\xb5\x2f\xfd bomb", np.uint8), "'w/levels'"),
        ("w/steps", np.ones(30, np.float32), "'w/steps' is float32"),
        ("b", np.zeros((3, 3), np.uint8), "'b' is uint8"),
        ("more", np.ones(1), "unexpected: more"),
    ],
)
def test_a_reply_that_cannot_be_decompressed_is_refused_by_name(
    connect: Connect, answer: Any, reply_with: Any, name: str, bad: NDArray[Any], why: str
) -> None:
    def one_bad(client: int, message: Message) -> RecordDict:
        content: RecordDict = answer(client, message)
        return content if client != 1 else reply_with({**model_in_content(content), name: bad})

    def model_in_content(content: RecordDict) -> dict[str, NDArray[Any]]:
        return arrays_of_record(content.array_records["arrays"])

    heard: dict[int, str | None] = {}
    grid = connect(one_bad)
    grid.begin("train", 1)
    new, metrics = Train(grid, seed=0, on_reply=heard.__setitem__).round(1, START, {})
    assert heard[0] is heard[2] is None
    assert why in str(heard[1])
    assert (metrics["clients"], metrics["refused"]) == (2, 1)
    np.testing.assert_allclose(new["b"], START["b"] + (1 + 9) / 4)
    (row,) = [row for row in rows_of(grid) if (row.node, row.direction) == (1, "up")]
    assert row.payload_bytes > 0
    assert row.saved_bytes == 0


def test_a_reply_with_no_model_or_two_is_the_guards_to_refuse(connect: Connect, answer: Any) -> None:
    def odd(client: int, message: Message) -> RecordDict:
        content: RecordDict = answer(client, message)
        if client == 0:
            del content["arrays"]
        elif client == 1:
            content["again"] = content["arrays"]
        return content

    heard: dict[int, str | None] = {}
    Train(connect(odd), seed=0, on_reply=heard.__setitem__).round(1, START, {})
    assert heard == {0: "0 array records where one is expected", 1: "2 array records where one is expected", 2: None}


def test_a_model_for_many_clients_is_compressed_once(
    connect: Connect, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded, before = list[str](), type(DOWN).encode

    def counted(self: Chain, *given: Any) -> Any:
        coded.append(self.name)
        return before(self, *given)

    monkeypatch.setattr(type(DOWN), "encode", counted)
    Train(connect(answer), seed=0).round(1, START, {})
    assert coded.count("fp16") == 1


def test_pushed_and_pulled_messages_are_compressed_too(connect: Connect, answer: Any) -> None:
    grid = connect(answer)
    grid.begin("train", 1)
    question = Message(RecordDict({"arrays": record_of(START)}), grid.node_of(2), "train")
    names = list(grid.push_messages([question]))
    (reply,) = grid.pull_messages(names)
    np.testing.assert_allclose(model_in(reply)["w"], DOWN.encode(START).received["w"] + 3, atol=1e-5)
    assert [row.saved_bytes > 0 for row in rows_of(grid)] == [True, True]
    assert grid.client_of(reply) == 2


def test_without_compression_or_a_model_messages_are_unchanged(connect: Connect) -> None:
    from fedquit.strategies.grid.compressed import Exchange

    bare = Message(RecordDict(), 7, "train")
    assert Exchange(Compression(UP, DOWN), {}).request(bare) is bare
    full = Message(RecordDict({"arrays": record_of(START)}), 7, "train")
    assert Exchange(Compression(), {}).request(full) is full


def test_rows_of_a_run_begun_before_there_was_compression_are_read(tmp_path: Path) -> None:
    row, path = Row("train", 1, 0, "up", 90, 100, 100, 0.5, 0.25), tmp_path / "costs.csv"
    old = b"phase,round,node,direction,payload_bytes,wire_bytes,deduplicated_bytes,seconds,device_seconds\n"
    path.write_bytes(old + line_of(row).replace(b",0\n", b"\n") + line_of(row._replace(saved_bytes=7)))
    assert list(read_rows(path)) == [row, row._replace(saved_bytes=7)]
