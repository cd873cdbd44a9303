"""The ClientApp: what a device answers, asked directly."""

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fedquit.client.app import app
from fedquit.client.data.build_data_and_model import initial_model
from fedquit.client.device.device import simulated_device
from fedquit.client.training.sgd import deterministic, evaluate, fit
from fedquit.settings import Settings
from fedquit.strategies.flower_internals import become_server_task
from fedquit.strategies.grid.array_record import arrays_of_record
from fedquit.unlearning.methods.base import make_method
from fedquit.unlearning.tensors.convert import arrays_of

SETTINGS = Settings(clients=3, model="mlp", samples=120, batch_size=16, lr=0.05, momentum=0.5, local_epochs=2)
START = initial_model(SETTINGS, 0).state_dict()


def ask(kind: str, client: int = 1, seed: int = 5, **config: Any) -> RecordDict:
    become_server_task(1)
    told = ConfigRecord({"seed": seed, "lr": 0.25, "server-round": 1, **config})
    content = RecordDict({"arrays": ArrayRecord(START), "config": told})
    context = Context(
        run_id=1,
        node_id=1000 + client,
        node_config={"partition-id": client, "num-partitions": 3},
        state=RecordDict(),
        run_config=SETTINGS.run_config(),
    )
    return app(Message(content, 1000 + client, kind), context).content


def device(client: int = 1) -> Any:
    return simulated_device(SETTINGS.run_config(), client, 3)


def arrays(content: RecordDict) -> dict[str, np.ndarray[Any, Any]]:
    return arrays_of_record(content.array_records["arrays"])


def assert_is_model(content: RecordDict, model: torch.nn.Module) -> None:
    expected = arrays_of(model.state_dict())
    got = arrays(content)
    assert got.keys() == expected.keys()
    assert all(got[name].tobytes() == expected[name].tobytes() for name in expected)


def test_a_device_says_who_it_is_and_how_much_it_has() -> None:
    said = ask("query", client=2).metric_records["metrics"]
    assert said["partition-id"] == 2
    assert said["num-examples"] == len(device(2).samples())
    assert said["num-partitions"] == 3


def test_the_devices_share_out_the_samples() -> None:
    sizes: list[Any] = [ask("query", client=client).metric_records["metrics"]["num-examples"] for client in range(3)]
    assert sum(sizes) == 120


def test_training_is_fit_with_the_servers_rate_and_the_runs_other_settings() -> None:
    content = ask("train")
    model = device().model(START)
    with deterministic(5):
        loss = fit(model, device().samples(), lr=0.25, epochs=2, batch_size=16, momentum=0.5, seed=5)
    assert_is_model(content, model)
    said = dict(content.metric_records["metrics"])
    assert said.pop("cpu-seconds") > 0  # type: ignore[operator]
    assert said == {"num-examples": len(device().samples()), "loss": loss}


def test_forgetting_is_the_runs_method_on_the_devices_own_samples() -> None:
    content = ask("train.forget")
    model = device().model(START)
    with deterministic(5):
        losses = make_method("fedquit", **SETTINGS.method_options()).on_device(model, device().samples(), seed=5)
    assert_is_model(content, model)
    assert content.metric_records["metrics"]["loss"] == losses[-1]


@pytest.mark.parametrize("kind", ["train", "train.forget"])
def test_the_same_message_gets_the_same_answer_and_another_seed_another(kind: str) -> None:
    first, again, other = (arrays(ask(kind, seed=seed)) for seed in (5, 5, 6))
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    assert any(first[name].tobytes() != other[name].tobytes() for name in first)


def test_evaluation_is_of_the_model_that_was_sent() -> None:
    loss, accuracy = evaluate(device().model(START), device().samples())
    metrics = ask("evaluate").metric_records["metrics"]
    assert metrics["accuracy"] == accuracy
    assert metrics["loss"] == pytest.approx(loss)
    assert metrics["num-examples"] == len(device().samples())


@pytest.mark.parametrize("bad", ["0.1", [0.1]])
def test_a_learning_rate_that_is_not_a_number_is_named(bad: Any) -> None:
    with pytest.raises(TypeError, match="config 'lr'"):
        ask("train", lr=bad)


def test_two_devices_never_share_a_model() -> None:
    one, two = device().model(START), device().model(START)
    with torch.no_grad():
        next(one.parameters()).zero_()
    assert torch.equal(next(two.parameters()), START[next(iter(START))])
