"""The ClientApp: what a device does when the server asks. Glue only; the work is in plain functions."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch._dynamo  # now, as the first optimiser would import it on the device's account of seconds
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedquit.client.device import Device, StateDict, simulated_device
from fedquit.client.memory import Memory
from fedquit.client.method import method_of
from fedquit.client.objective import objective_of
from fedquit.client.objectives import LocalRound
from fedquit.client.training import deterministic, evaluate
from fedquit.errors import InputError
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
    objective = objective_of(work.device.settings)
    kept = work.recall()
    with work.timed():
        done = objective.train(work.model, work.samples, work.local_round(kept))
    work.keep(done.keep)
    return work.reply(done.loss, done.send)


@app.train("forget")
def forget(message: Message, context: Context) -> Message:
    """Carry out the method's step on the model that was sent, and hand back what it becomes."""
    work = Work(message, context)
    method = method_of(work.device.settings)
    if work.device.memory is not None:
        work.device.memory.forget_before(work.requests)
    with work.timed():
        losses = method.on_device(
            work.model,
            work.samples,
            seed=work.seed,
            step=str(work.config.get("step", "forget")),
            config=work.numbers,
            extra=work.extra,
        )
    return work.reply(losses[-1], work.model.state_dict())


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
        self.requests = int(self.number("requests", 0))
        self.model = self.device.model(_arrays(message, "arrays"))
        self.extra = _arrays(message, "extra") if "extra" in message.content.array_records else None
        self.samples: Samples = self.device.samples(str(self.config.get("samples", "keep")), self.requests)
        self.seconds = 0.0

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number that the server sent along with the model."""
        value = self.config.get(key, default)
        if not isinstance(value, int | float):
            raise TypeError(f"config '{key}' is {value!r}, not a number")
        return value

    def recall(self) -> StateDict | None:
        """Return what this device kept of the round before; None: nothing, or the server does not count this round."""
        memory = self._memory()
        if memory is None:
            return None
        memory.forget_before(self.requests)
        return memory.recall(str(self.config["phase"]), self.requests, int(self.number("server-round")))

    def keep(self, state: StateDict | None) -> None:
        """Keep `state` for the next round."""
        memory = self._memory()
        if memory is not None and state is not None:
            memory.keep(state, str(self.config["phase"]), self.requests, int(self.number("server-round")))

    def _memory(self) -> Memory | None:
        if "phase" not in self.config:
            return None
        if self.device.memory is None:
            raise InputError(
                f"objective '{self.device.settings.objective}' keeps something on the device from round to round: "
                "set device-folder, in the node's config or in the run's"
            )
        return self.device.memory

    def local_round(self, kept: StateDict | None) -> LocalRound:
        """Return how this device trains in this round."""
        settings = self.device.settings
        return LocalRound(
            seed=self.seed,
            lr=self.number("lr"),
            epochs=int(self.number("epochs", settings.local_epochs)),
            batch_size=settings.batch_size,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            extra=self.extra,
            kept=kept,
        )

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Compute deterministically, and count the processor's seconds."""
        started = time.process_time()
        with deterministic(self.seed):
            yield
        self.seconds = time.process_time() - started

    def reply(self, loss: float, state: StateDict) -> Message:
        """Return the model that `state` holds, and what the server is told of the work."""
        metrics = MetricRecord({"num-examples": len(self.samples), "loss": loss, "cpu-seconds": self.seconds})
        arrays = ArrayRecord(dict(state))
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=self.message)


def _device(context: Context) -> Device:
    node = context.node_config
    clients, folder = int(node["num-partitions"]), str(node.get("device-folder", ""))
    return simulated_device(context.run_config, int(node["partition-id"]), clients, folder)


def _arrays(message: Message, record: str) -> dict[str, torch.Tensor]:
    return dict(message.content.array_records[record].to_torch_state_dict())
