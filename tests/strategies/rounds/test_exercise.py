"""Asking for forgetting: only those who ask are asked, and what they hand back becomes the model."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from fedquit.errors import FedquitError
from fedquit.server.lifecycle.grid_session import GridSession
from fedquit.server.run.simulated_case import simulated_case
from fedquit.settings import Settings
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.strategies.grid.array_record import arrays_of_record
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.rounds.exercise import run_exercise
from fedquit.unlearning.methods.base import METHODS
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.tensors.convert import tensors_of

Connect = Callable[..., MeteredGrid]
Answering = Callable[[int, Message], RecordDict]
Heard = dict[int, str | None]

START = {"w": np.array([1.0, -0.0, 3e-39], np.float32)}
HANDED_BACK = {0: [0.1, -0.0, 1e-45], 1: [0.5, 2.0, -7.0], 2: [9.0, 9.0, 9.0]}


class Backwards(InProcessGrid):
    """A grid on which the last one asked answers first."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        yield from reversed(list(super().send_and_receive(messages, timeout=timeout)))


@pytest.fixture
def answer(reply_with: Any) -> Answering:
    return lambda client, _message: RecordDict(
        reply_with({"w": np.array(HANDED_BACK[client], np.float32)}, 10 * (client + 1), loss=float(client))
    )


def session(grid: MeteredGrid, forget: str, heard: Heard | None = None) -> GridSession:
    """The request of a run with three clients, as the server serves it in round 3."""
    grid.begin("forget", 3)
    state = tensors_of(START)
    settings = Settings.read({"clients": 3, "scheme": "iid", "samples": 60, "forget": forget})
    return GridSession(
        grid,
        settings,
        simulated_case(settings, 0, "forget", 3),
        initial=state,
        current=state,
        history=None,  # type: ignore[arg-type]
        lr=0.25,
        on_reply=({} if heard is None else heard).__setitem__,
    )


def served(session: GridSession) -> NDArray[np.float32]:
    """Serve the request as a method does that says nothing else: `Method.serve`."""
    new: NDArray[np.float32] = METHODS["ascent"]().serve(session)["w"].numpy()
    return new


@pytest.mark.parametrize("forget", ["1", "2,0"])
def test_only_those_who_ask_get_a_message_to_forget(connect: Connect, answer: Answering, forget: str) -> None:
    seen = []

    def spy(client: int, message: Message) -> RecordDict:
        config = message.content.config_records["config"]
        sent = arrays_of_record(message.content.array_records["arrays"])["w"]
        seen.append((client, message.metadata.message_type, config["samples"], config["requests"], sent.tobytes()))
        return answer(client, message)

    served(session(connect(spy), forget))
    clients = sorted(map(int, forget.split(",")))
    assert sorted(seen) == [(c, "train.forget", "forget", 1, START["w"].tobytes()) for c in clients]


@pytest.mark.parametrize("client", [0, 1])
def test_the_model_of_the_only_one_who_asks_is_adopted_bit_for_bit(
    connect: Connect, answer: Answering, client: int
) -> None:
    new = served(session(connect(answer), str(client)))
    assert new.tobytes() == np.array(HANDED_BACK[client], np.float32).tobytes()


def test_the_models_of_two_are_averaged_by_their_samples(connect: Connect, answer: Answering) -> None:
    new = served(session(connect(answer), "1,0"))
    np.testing.assert_allclose(new, (10 * np.array(HANDED_BACK[0]) + 20 * np.array(HANDED_BACK[1])) / 30, rtol=1e-6)


def test_the_order_of_arrival_changes_nothing(connect: Connect, answer: Answering) -> None:
    orders = [session(connect(answer, engine=engine), "0,1") for engine in (InProcessGrid, Backwards)]
    one, other = (served(each) for each in orders)
    assert one.tobytes() == other.tobytes()
    assert [each.loss for each in orders] == [20 / 30] * 2
    assert [set(each.answered) for each in orders] == [{0, 1}] * 2


@pytest.mark.parametrize("forget", ["1", "0,1"])
def test_a_device_that_fails_is_named_with_its_reason(connect: Connect, answer: Answering, forget: str) -> None:
    def silent(client: int, message: Message) -> RecordDict:
        if client == 1:
            raise OSError("battery empty")
        return answer(client, message)

    heard: Heard = {}
    asked = session(connect(silent), forget, heard)
    with pytest.raises(FedquitError, match=r"client\(s\) 1\b"):
        served(asked)
    assert "battery empty" in str(heard[1])
    assert heard.get(0) is None


BAD = {
    "NaN": {"w": np.array([0, np.nan, 0], np.float32)},
    r"\(1,\)": {"w": np.zeros(1, np.float32)},
    "float64": {"w": np.zeros(3)},
    "missing w; unexpected v": {"v": np.zeros(3, np.float32)},
}


@pytest.mark.parametrize("said", BAD)
def test_a_bad_reply_never_reaches_the_model_and_is_reported(
    connect: Connect, answer: Answering, reply_with: Any, said: str
) -> None:
    def one_bad(client: int, message: Message) -> RecordDict:
        return RecordDict(reply_with(BAD[said])) if client == 1 else answer(client, message)

    heard: Heard = {}
    grid = connect(one_bad)
    configs = {client: {"seed": client} for client in range(3)}
    replies = list(run_exercise(grid, "forget", [0, 1, 2], START, configs, on_reply=heard.__setitem__))
    assert sorted(reply.client for reply in replies) == [0, 2]
    assert heard[0] is heard[2] is None
    assert re.search(said, str(heard[1])), heard[1]
    with pytest.raises(FedquitError, match=r"client\(s\) 1\b"):
        served(session(grid, "0,1"))


def test_each_exercise_of_each_client_has_a_seed_of_its_own(connect: Connect, answer: Answering) -> None:
    seeds: list[tuple[int, Any]] = []

    def spy(client: int, message: Message) -> RecordDict:
        seeds.append((client, message.content.config_records["config"]["seed"]))
        return answer(client, message)

    asked = session(connect(spy), "0,1")
    for _ in range(2):
        list(asked.run("forget", (0, 1), asked.current))
    assert sorted(seeds) == sorted((c, derive_seed(0, "forget", n, c)) for n in (3, 4) for c in (0, 1))
    assert len({seed for _, seed in seeds}) == 4


def test_a_round_uses_the_scheduled_rate_unless_the_method_sets_one(connect: Connect, answer: Answering) -> None:
    told = []

    def spy(client: int, message: Message) -> RecordDict:
        config = message.content.config_records["config"]
        told.append((message.metadata.message_type, config["samples"], config["lr"], config.get("epochs")))
        return answer(client, message)

    asked = session(connect(spy), "0")
    list(asked.run("train", (2,), asked.current))
    list(asked.run("train", (2,), asked.current, lr=0.5, epochs=3))
    assert told == [("train", "keep", 0.25, None), ("train", "keep", 0.5, 3)]


def test_all_bytes_sent_are_logged_to_the_request_with_extra_tensors(connect: Connect, answer: Answering) -> None:
    spent = []
    for extra in (None, {"more": torch.zeros(1000)}):
        grid = connect(answer)
        asked = session(grid, "0")
        list(asked.run("forget", (0,), asked.current, extra=extra))
        assert asked.exchanges == 1
        spent.append(grid.costs.of("forget", 3).down)
    assert 4000 <= spent[1] - spent[0] < 4400


def test_asking_nobody_sends_nothing(connect: Connect, answer: Answering) -> None:
    grid = connect(answer)
    asked = session(grid, "0")
    assert list(asked.run("forget", (), asked.current)) == []
    assert (asked.exchanges, grid.costs.of("forget", 3).down) == (0, 0)


def test_a_device_that_is_not_connected_is_named(connect: Connect, answer: Answering) -> None:
    with pytest.raises(FedquitError, match="client 7 is not connected"):
        list(run_exercise(connect(answer), "forget", [7], START, {7: {}}))
