"""A round of training: who is asked, what becomes of the replies, and that only the seed decides."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from fedquit.errors import FedquitError
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.strategies.grid.array_record import arrays_of_record, record_of
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.rounds.train import Train

Connect = Callable[..., MeteredGrid]
ReplyWith = Callable[..., RecordDict]
Arrays = dict[str, NDArray[np.float32]]

START: Arrays = {"w": np.linspace(-1, 1, 5, dtype=np.float32), "b": np.array([0.25], np.float32)}
SIZES = (10, 20, 30)


class Backwards(InProcessGrid):
    """A grid on which the last one asked answers first."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        yield from reversed(list(super().send_and_receive(messages, timeout=timeout)))


@pytest.fixture
def answer(reply_with: ReplyWith) -> Callable[[int, Message], RecordDict]:
    """Move each weight by a step of the client's own, drawn from the seed it was sent."""

    def moved(client: int, message: Message) -> RecordDict:
        arrays = arrays_of_record(message.content.array_records["arrays"])
        seed = int(message.content.config_records["config"]["seed"])  # type: ignore[arg-type]
        rng = np.random.default_rng(seed)
        new = {name: a + rng.normal(size=a.shape).astype(np.float32) for name, a in arrays.items()}
        return reply_with(new, SIZES[client % 3] + client, loss=float(client))

    return moved


def asked(strategy: Train, number: int) -> list[int]:
    return [strategy.grid.members[node].client for node in strategy.sample(number)]


def test_a_round_is_flowers_federated_average_up_to_rounding(connect: Connect, answer: Any) -> None:
    grid = connect(answer)
    ours = Train(grid, seed=3)
    replies = list(grid.send_and_receive(ours.configure_train(1, record_of(START), record_of({}), grid)))  # type: ignore[arg-type]
    stock, _ = FedAvg().aggregate_train(1, replies)
    record, metrics = ours.aggregate_train(1, replies)
    assert stock is not None
    assert record is not None
    for name, array in arrays_of_record(record).items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, stock[name].numpy(), rtol=1e-6, atol=1e-7)
    assert metrics is not None
    assert metrics["num-examples"] == 10 + 21 + 32
    assert metrics["loss"] == pytest.approx((0 * 10 + 1 * 21 + 2 * 32) / 63)


def test_a_bad_reply_is_left_out_and_named_and_the_round_continues(
    connect: Connect, answer: Any, reply_with: Any
) -> None:
    def one_bad(client: int, message: Message) -> RecordDict:
        if client == 1:
            return RecordDict(reply_with({name: a * np.float32("nan") for name, a in START.items()}, 20))
        return RecordDict(answer(client, message))

    heard: dict[int, str | None] = {}
    new, metrics = Train(connect(one_bad), seed=0, on_reply=heard.__setitem__).round(1, START, {"lr": 0.1})
    without = connect(answer)
    without.begin("join", 1, excluded=[1])
    expected, _ = Train(without, seed=0).round(1, START, {"lr": 0.1})
    assert heard[0] is None
    assert heard[2] is None
    assert "NaN" in str(heard[1])
    assert (metrics["clients"], metrics["refused"]) == (2, 1)
    assert all(new[name].tobytes() == expected[name].tobytes() for name in START)


@pytest.mark.parametrize("kind", ["raises", "no metrics", "too large", "absurd loss"])
def test_whatever_one_client_sends_the_others_make_the_model(
    connect: Connect, answer: Any, reply_with: Any, kind: str
) -> None:
    def one_bad(client: int, message: Message) -> RecordDict:
        if client != 2:
            return RecordDict(answer(client, message))
        if kind == "raises":
            raise MemoryError("no room")
        if kind == "no metrics":
            return RecordDict({"arrays": record_of(START)})
        if kind == "too large":
            return RecordDict(reply_with({name: a + np.float32(1e30) for name, a in START.items()}))
        return RecordDict(reply_with(START, 10**9, loss=1.7e308))

    heard: dict[int, str | None] = {}
    _, metrics = Train(connect(one_bad), seed=0, on_reply=heard.__setitem__).round(1, START, {})
    assert [client for client, reason in heard.items() if reason] == [2]
    assert np.isfinite(metrics["loss"])
    assert metrics["clients"] == 2


def test_when_no_reply_can_be_used_the_error_names_everyone(connect: Connect) -> None:
    def broken(client: int, message: Message) -> RecordDict:
        raise RuntimeError(f"trouble {client}")

    with pytest.raises(FedquitError) as caught:
        Train(connect(broken), seed=0).round(4, START, {})
    assert "round 4" in str(caught.value)
    assert all(f"client {client}: RuntimeError: trouble {client}" in str(caught.value) for client in range(3))


def test_excluded_clients_get_no_message(connect: Connect, answer: Any) -> None:
    seen = []

    def spy(client: int, message: Message) -> RecordDict:
        seen.append(client)
        return RecordDict(answer(client, message))

    grid = connect(spy)
    grid.begin("recover", 5, excluded=[0, 2])
    Train(grid, seed=0).round(5, START, {})
    assert seen == [1]


def test_when_all_are_excluded_the_error_says_so(connect: Connect, answer: Any) -> None:
    grid = connect(answer)
    grid.begin("recover", 5, excluded=[0, 1, 2])
    with pytest.raises(FedquitError):
        Train(grid, seed=0).round(5, START, {})


def test_who_is_sampled_depends_on_seed_and_round_only(connect: Connect, answer: Any) -> None:
    sizes = range(5, 25)
    some, fresh = (Train(connect(answer, sizes), seed=7, fraction=0.25) for _ in range(2))
    other = Train(connect(answer, sizes), seed=8, fraction=0.25)
    rounds = [asked(some, number) for number in range(1, 9)]
    assert rounds == [asked(fresh, number) for number in reversed(range(1, 9))][::-1]
    assert rounds != [asked(other, number) for number in range(1, 9)]
    assert len({tuple(chosen) for chosen in rounds}) > 1
    assert all(len(set(chosen)) == 5 for chosen in rounds)


def test_at_least_one_is_sampled(connect: Connect, answer: Any) -> None:
    assert len(asked(Train(connect(answer), seed=0, fraction=0.01), 1)) == 1


def test_those_with_most_samples_are_asked_first(connect: Connect, answer: Any) -> None:
    assert asked(Train(connect(answer, (20, 50, 20, 70)), seed=0), 1) == [3, 1, 0, 2]


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_the_numbers_flower_gives_nodes_change_nothing(connect: Connect, answer: Any, fraction: float) -> None:
    sizes = (10, 20, 30, 40)
    models = []
    for numbering in (None, (2, 0, 3, 1), (3, 2, 1, 0)):
        strategy = Train(connect(answer, sizes, numbering), seed=1, fraction=fraction)
        arrays: Any = START
        for number in (1, 2):
            arrays, _ = strategy.round(number, arrays, {})
        models.append(b"".join(arrays[name].tobytes() for name in START))
    assert models[0] == models[1] == models[2]


def test_the_order_of_arrival_changes_nothing(connect: Connect, answer: Any) -> None:
    forwards, _ = Train(connect(answer), seed=1).round(1, START, {})
    backwards, _ = Train(connect(answer, engine=Backwards), seed=1).round(1, START, {})
    assert all(forwards[name].tobytes() == backwards[name].tobytes() for name in START)


def test_each_client_gets_the_round_the_config_and_its_own_seed(connect: Connect, answer: Any) -> None:
    told = []

    def spy(client: int, message: Message) -> RecordDict:
        told.append(dict(message.content.config_records["config"]))
        return RecordDict(answer(client, message))

    Train(connect(spy), seed=0).round(6, START, {"lr": 0.25})
    assert [(t["lr"], t["server-round"]) for t in told] == [(0.25, 6)] * 3
    assert len({t["seed"] for t in told}) == 3


def test_arrays_without_axes_travel_as_they_are() -> None:
    arrays: Any = {"counter": np.array(3, np.int64), "none": np.zeros((0, 2), np.float32), "turned": np.eye(3)[:, ::-1]}
    back = arrays_of_record(record_of(arrays))
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert (back[name].shape, back[name].dtype) == (array.shape, array.dtype)
        assert np.array_equal(back[name], array)


def test_a_model_with_counters_without_axes_can_be_trained(connect: Connect, reply_with: Any) -> None:
    start: Any = {"running_mean": np.zeros(2, np.float32), "num_batches_tracked": np.array(4, np.int64)}

    def counted(client: int, message: Message) -> RecordDict:
        return RecordDict(reply_with({**start, "num_batches_tracked": np.array(4 + 10 * client, np.int64)}))

    new, metrics = Train(connect(counted), seed=0).round(1, start, {})
    assert metrics["refused"] == 0
    assert new["num_batches_tracked"].dtype == np.int64
    assert new["num_batches_tracked"].shape == ()
    assert int(new["num_batches_tracked"]) == 14
