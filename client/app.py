"""The ClientApp: what a device does when the server asks. Glue only; the work is in plain functions."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch._dynamo  # now, as the first optimiser would import it on the device's account of seconds
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedquit.client.device import Device, simulated_device
from fedquit.client.method import method_of
from fedquit.client.training import deterministic, evaluate, fit
from fedquit.unlearning.samples import Samples

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Say which client this is, of how many, and how many samples it has."""
    device = _device(context)
    metrics = MetricRecord(
        {
            "partition-id": device.partition_id,
            "num-partitions": device.settings.clients,
            "num-examples": len(device.samples()),
        }
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model that was sent on this device's samples for one round."""
    work = Work(message, context)
    settings = work.device.settings
    with work.timed():
        loss = fit(
            work.model,
            work.samples,
            lr=work.number("lr"),
            epochs=int(work.number("epochs", settings.local_epochs)),
            batch_size=settings.batch_size,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            seed=work.seed,
        )
    return work.reply(loss)


@app.train("forget")
def forget(message: Message, context: Context) -> Message:
    """Carry out the method's step on the model that was sent, and hand back what it becomes."""
    work = Work(message, context)
    method = method_of(work.device.settings)
    with work.timed():
        losses = method.on_device(
            work.model,
            work.samples,
            seed=work.seed,
            step=str(work.config.get("step", "forget")),
            config=work.numbers,
            extra=work.extra,
        )
    return work.reply(losses[-1])


@app.evaluate()
def judge(message: Message, context: Context) -> Message:
    """Evaluate the global model on this device's samples."""
    device = _device(context)
    with deterministic(0):
        loss, accuracy = evaluate(device.model(_arrays(message, "arrays")), device.samples())
    metrics = MetricRecord({"num-examples": len(device.samples()), "loss": loss, "accuracy": accuracy})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


class Work:
    """What a message asks of this device: a model, samples, a seed and numbers; and the reply."""

    def __init__(self, message: Message, context: Context) -> None:
        self.message, self.device = message, _device(context)
        self.config: ConfigRecord = message.content.config_records["config"]
        self.numbers = {key: value for key, value in self.config.items() if isinstance(value, int | float)}
        self.seed = int(self.number("seed"))
        self.model = self.device.model(_arrays(message, "arrays"))
        self.extra = _arrays(message, "extra") if "extra" in message.content.array_records else None
        self.samples: Samples = self.device.samples(
            str(self.config.get("samples", "keep")), int(self.number("requests", 0))
        )
        self.seconds = 0.0

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number that the server sent along with the model."""
        value = self.config.get(key, default)
        if not isinstance(value, int | float):
            raise TypeError(f"config '{key}' is {value!r}, not a number")
        return value

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Compute deterministically, and count the processor's seconds."""
        started = time.process_time()
        with deterministic(self.seed):
            yield
        self.seconds = time.process_time() - started

    def reply(self, loss: float) -> Message:
        """Return the model, and what the server is told of the work."""
        metrics = MetricRecord({"num-examples": len(self.samples), "loss": loss, "cpu-seconds": self.seconds})
        arrays = ArrayRecord(self.model.state_dict())
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=self.message)


def _device(context: Context) -> Device:
    node = context.node_config
    return simulated_device(context.run_config, int(node["partition-id"]), int(node["num-partitions"]))


def _arrays(message: Message, record: str) -> dict[str, torch.Tensor]:
    return dict(message.content.array_records[record].to_torch_state_dict())
