"""A forget round: only those who ask are asked, and what they hand back becomes the model."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from fedquit.errors import FedquitError
from fedquit.strategies.forget import Forget
from fedquit.strategies.metered import MeteredGrid

Connect = Callable[..., MeteredGrid]

START = {"w": np.array([1.0, -0.0, 3e-39], np.float32)}
HANDED_BACK = {0: [0.1, -0.0, 1e-45], 1: [0.5, 2.0, -7.0], 2: [9.0, 9.0, 9.0]}


@pytest.fixture
def answer(reply_with: Any) -> Callable[[int, Message], RecordDict]:
    return lambda client, _message: RecordDict(
        reply_with({"w": np.array(HANDED_BACK[client], np.float32)}, 10 * (client + 1))
    )


@pytest.mark.parametrize("clients", [[1], [2, 0]])
def test_only_those_who_ask_get_a_message_to_forget(connect: Connect, answer: Any, clients: list[int]) -> None:
    seen = []

    def spy(client: int, message: Message) -> RecordDict:
        seen.append((client, message.metadata.message_type))
        return RecordDict(answer(client, message))

    Forget(connect(spy), clients, seed=0).round(3, START, {})
    assert sorted(seen) == [(client, "train.forget") for client in sorted(clients)]


@pytest.mark.parametrize("client", [0, 1])
def test_the_model_of_the_only_one_who_asks_is_adopted_bit_for_bit(connect: Connect, answer: Any, client: int) -> None:
    new, _ = Forget(connect(answer), [client], seed=0).round(3, START, {})
    assert new["w"].tobytes() == np.array(HANDED_BACK[client], np.float32).tobytes()


def test_the_models_of_two_are_averaged_by_their_samples(connect: Connect, answer: Any) -> None:
    new, _ = Forget(connect(answer), [1, 0], seed=0).round(3, START, {})
    np.testing.assert_allclose(
        new["w"], (10 * np.array(HANDED_BACK[0]) + 20 * np.array(HANDED_BACK[1])) / 30, rtol=1e-6
    )


@pytest.mark.parametrize("clients", [[1], [0, 1]])
def test_a_device_that_does_not_answer_is_named_with_its_reason(
    connect: Connect, answer: Any, clients: list[int]
) -> None:
    def silent(client: int, message: Message) -> RecordDict:
        if client == 1:
            raise OSError("battery empty")
        return RecordDict(answer(client, message))

    with pytest.raises(FedquitError) as caught:
        Forget(connect(silent), clients, seed=0).round(3, START, {})
    assert "client 1" in str(caught.value)
    assert "battery empty" in str(caught.value)


def test_a_device_that_is_not_connected_is_named(connect: Connect, answer: Any) -> None:
    with pytest.raises(FedquitError, match="client 7 is not connected"):
        Forget(connect(answer), [7], seed=0).round(3, START, {})
