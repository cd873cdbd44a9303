"""The ClientApp: what a device does when the server asks. Glue only; the work is in plain functions."""

from typing import cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedquit.client.device import Device, simulated_device
from fedquit.client.training import deterministic, evaluate, fit
from fedquit.unlearning.methods import make_method

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Say which client this is and how many samples it has."""
    device = _device(context)
    metrics = MetricRecord({"partition-id": device.partition_id, "num-examples": len(device.samples)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on this device's samples for one round."""
    device, config, settings = _device(context), _config(message), _device(context).settings
    model = device.model(_arrays(message))
    with deterministic(config["seed"]):
        loss = fit(
            model,
            device.samples,
            lr=cast(float, message.content.config_records["config"]["lr"]),
            epochs=settings.local_epochs,
            batch_size=settings.batch_size,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            seed=config["seed"],
        )
    return _reply(message, model, {"num-examples": len(device.samples), "loss": loss})


@app.train("forget")
def forget(message: Message, context: Context) -> Message:
    """Make the global model forget this device's samples, and hand it back as the new global model."""
    device, config = _device(context), _config(message)
    model = device.model(_arrays(message))
    method = make_method(device.settings.method, **device.settings.method_options())
    with deterministic(config["seed"]):
        losses = method.forget(model, device.samples, seed=config["seed"])
    return _reply(message, model, {"num-examples": len(device.samples), "loss": losses[-1]})


@app.evaluate()
def judge(message: Message, context: Context) -> Message:
    """Evaluate the global model on this device's samples."""
    device = _device(context)
    with deterministic(0):
        loss, accuracy = evaluate(device.model(_arrays(message)), device.samples)
    metrics = MetricRecord({"num-examples": len(device.samples), "loss": loss, "accuracy": accuracy})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _device(context: Context) -> Device:
    node = context.node_config
    return simulated_device(context.run_config, int(node["partition-id"]), int(node["num-partitions"]))


def _config(message: Message) -> ConfigRecord:
    return message.content.config_records["config"]


def _arrays(message: Message) -> dict[str, torch.Tensor]:
    return dict(message.content.array_records["arrays"].to_torch_state_dict())


def _reply(message: Message, model: torch.nn.Module, metrics: dict[str, int | float]) -> Message:
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord(metrics)})
    return Message(content, reply_to=message)
