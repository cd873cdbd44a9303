"""The ClientApp: what a device does when the server asks. Glue only; the work is in plain functions."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedquit.client.device import Device, simulated_device
from fedquit.client.training import deterministic, evaluate, fit
from fedquit.unlearning.methods import device_method

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Say which client this is, of how many, and how many samples it has."""
    device = _device(context)
    metrics = MetricRecord(
        {
            "partition-id": device.partition_id,
            "num-partitions": device.settings.clients,
            "num-examples": len(device.samples),
        }
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on this device's samples for one round."""
    device, seed = _device(context), int(_told(message, "seed"))
    model = device.model(_arrays(message))
    with deterministic(seed):
        loss = fit(
            model,
            device.samples,
            lr=_told(message, "lr"),
            epochs=device.settings.local_epochs,
            batch_size=device.settings.batch_size,
            momentum=device.settings.momentum,
            weight_decay=device.settings.weight_decay,
            seed=seed,
        )
    return _reply(message, model, device, loss)


@app.train("forget")
def forget(message: Message, context: Context) -> Message:
    """Make the global model forget this device's samples, and hand it back as the new global model."""
    device, seed = _device(context), int(_told(message, "seed"))
    model = device.model(_arrays(message))
    method = device_method(device.settings.method, **device.settings.method_options())
    with deterministic(seed):
        losses = method.forget(model, device.samples, seed=seed)
    return _reply(message, model, device, losses[-1])


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


def _told(message: Message, key: str) -> float:
    """Return a number that the server sent along with the model."""
    value = message.content.config_records["config"][key]
    if not isinstance(value, int | float):
        raise TypeError(f"config '{key}' is {value!r}, not a number")
    return value


def _arrays(message: Message) -> dict[str, torch.Tensor]:
    return dict(message.content.array_records["arrays"].to_torch_state_dict())


def _reply(message: Message, model: torch.nn.Module, device: Device, loss: float) -> Message:
    metrics = MetricRecord({"num-examples": len(device.samples), "loss": loss})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)
