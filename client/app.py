"""The ClientApp: how a device serves the server's messages. Glue only; the work is in plain functions."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy, deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod
from flwr.clientapp.typing import ClientAppCallable
from numpy.typing import NDArray
from torch import nn

from fedquit.client.compression.build_compression import Compression, compression_of
from fedquit.client.compression.device_side import compress_model, memory_for, read_model
from fedquit.client.data.build_data_and_model import empty_model
from fedquit.client.device.deployed_device import deployed_device, deployed_settings, memory_of
from fedquit.client.device.device import NOTHING, Device, ReceivedConfig, SimulatedDevice, simulated_device
from fedquit.client.device.memory import Memory
from fedquit.client.device.record import Forgotten
from fedquit.client.kit import Kit
from fedquit.client.models.model_file import model_hash
from fedquit.client.objectives import LocalRound, Objective, make_objective, progress
from fedquit.client.personal.personal_evaluation import round_measures, stage_measures
from fedquit.client.training.build_method import method_of
from fedquit.client.training.build_objective import NOT_DEPLOYED, objective_of
from fedquit.client.training.sgd import deterministic, evaluate
from fedquit.client.training.without_compiler import spare_the_compiler
from fedquit.errors import InputError
from fedquit.settings import Settings
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.convert import StateDict

spare_the_compiler()


def compressed(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Decode the model that came, and compress the one that is sent, as the run says; outermost of all mods."""
    if "arrays" not in message.content.array_records:
        return call_next(message, context)
    settings = _settings(message, context)
    compression = compression_of(settings)
    if compression == Compression():
        return call_next(message, context)
    started, config = time.process_time(), _config(message)
    memory = memory_for(compression.up, config, lambda: _memory(message, context))
    given = {name: array.data for name, array in message.content.array_records["arrays"].items()}
    received, plain = read_model(compression.down, given, settings), copy(message)
    plain.content = RecordDict({**message.content, "arrays": _record(received)})
    spent = time.process_time() - started
    reply = call_next(plain, context)
    if compression.up is None or "arrays" not in reply.content.array_records:
        return reply
    started = time.process_time()
    model = {name: array.numpy() for name, array in reply.content.array_records["arrays"].items()}
    sent = compress_model(compression.up, model, received, config, memory)
    metrics = reply.content.metric_records["metrics"]
    metrics["compression-error"] = sent.error
    metrics["cpu-seconds"] = cast(float, metrics["cpu-seconds"]) + spent + time.process_time() - started
    reply.content["arrays"] = _record(sent.arrays)
    return reply


app = ClientApp(mods=[compressed])


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Say who this is, and how many samples it has."""
    device = _device(message, context)
    with device.at_work("query", NOTHING):
        return _reply(message, device, {"metrics": MetricRecord({**device.who()})})


def clip(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Clip what `train` hands back, by Flower's own mod, if the server's differential privacy says to what norm.

    The mod also says whether it clipped; where the norm is fixed, nobody asks.
    """
    config = message.content.config_records["config"]
    if "clipping_norm" not in config:
        return call_next(message, context)
    sent = list(message.content.array_records["arrays"])

    def in_order(message: Message, context: Context) -> Message:
        """Have the reply name its arrays in the order they came in, as the mod demands."""
        reply = call_next(message, context)
        arrays = reply.content.array_records["arrays"]
        reply.content["arrays"] = ArrayRecord({name: arrays[name] for name in sent})
        return reply

    return adaptiveclipping_mod(message, context, in_order)


@app.train(mods=[clip])
def train(message: Message, context: Context) -> Message:
    """Train the model that was sent on this device's samples for one round."""
    work = Work(message, context)
    objective = work.objective()
    with work.device.at_work("train", work.config):
        state, samples = work.recall(), work.samples
        model = work.own_model(state) if work.owns else work.model
        with work.timed():
            done = objective.train(model, samples, work.local_round(state))
        work.keep(done.keep)
        work.device.trained(work.config, done.send)
        return work.reply(done.loss, done.send)


@app.train("forget")
def forget(message: Message, context: Context) -> Message:
    """Carry out the method's step on the model that was sent, and hand back what it becomes."""
    work = Work(message, context)
    with work.device.at_work("forget", work.config):
        done = work.device.forget(work.config, work.model, work.extra, work.forgotten)
        return work.reply(done.loss, done.state, done.num_examples, done.metrics)


@app.evaluate()
def evaluate_global(message: Message, context: Context) -> Message:
    """Evaluate the global model on this device's samples, or on those of a request while it has them."""
    device, config = _device(message, context), _config(message)
    with device.at_work("evaluate", config):
        model = device.model(_arrays(message, "arrays"))
        verified = _verified(device, model, config)
        samples = device.samples(config)
        with deterministic(0):
            loss, accuracy = evaluate(model, samples)
        metrics = MetricRecord({"num-examples": len(samples), "loss": loss, "accuracy": accuracy, **verified})
        return _reply(message, device, {"metrics": metrics})


def _verified(device: Device, model: nn.Module, config: ReceivedConfig) -> dict[str, float]:
    """Return how the model does on the samples of a request, if the message asks for that too and they are there."""
    if "verify" not in config:
        return {}
    try:
        forgotten = device.samples({**config, "samples": "forget"})
    except InputError:
        return {}
    with deterministic(0):
        loss, accuracy = evaluate(model, forgotten)
    return {"forget-loss": loss, "forget-accuracy": accuracy}


@app.evaluate("own")
def evaluate_personal(message: Message, context: Context) -> Message:
    """Evaluate this device's personalised model, as it was when the round that the message names began."""
    work = Work(message, context)
    with work.device.at_work("evaluate", work.config):
        model = work.own_model(work.recall())
        with work.timed():
            measures = work.measures(model)
        metrics: dict[str, Any] = {"num-examples": len(work.samples), "cpu-seconds": work.seconds, **measures}
        sha256 = ConfigRecord({"sha256": model_hash(model.state_dict())})
        return Message(RecordDict({"metrics": MetricRecord(metrics), "model": sha256}), reply_to=message)


class Work:
    """One message as work: its model, samples, seed and config; and the reply to it."""

    def __init__(self, message: Message, context: Context) -> None:
        self.message, self.device = message, _device(message, context)
        self.config = _config(message)
        self.numbers = {key: value for key, value in self.config.items() if isinstance(value, int | float)}
        self.seed = int(self.number("seed"))
        self.requests = int(self.number("requests", 0))
        self.owns = self.objective().needs().owns
        self.extra = _arrays(message, "extra") if "extra" in message.content.array_records else None
        self.seconds = 0.0

    @cached_property
    def model(self) -> nn.Module:
        """The model that was sent."""
        return self.device.model(_arrays(self.message, "arrays"))

    def own_model(self, state: StateDict | None) -> nn.Module:
        """Return the device's personalised model from its state, or with initial weights."""
        weights = None if state is None else self.objective().own_model(state)
        return _simulated(self.device).own_model(weights, int(self.number("model-seed")))

    def measures(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics of the personalised model: more at the end of a phase than after a round."""
        device = _simulated(self.device)
        if self.number("stage"):
            return stage_measures(model, device.settings, device.partition_id)
        return round_measures(model, device.settings)

    @cached_property
    def samples(self) -> Samples:
        """What the message is about."""
        return self.device.samples(self.config)

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number that the server sent along with the model."""
        value = self.config.get(key, default)
        if not isinstance(value, int | float):
            raise TypeError(f"config '{key}' is {value!r}, not a number")
        return value

    def objective(self) -> Objective:
        """Return what is minimised: the run's objective, or that of Flower's FedProx where the server says so."""
        pull = self.config.get("proximal-mu")
        return objective_of(self.device.settings) if pull is None else make_objective("fedprox", mu=pull)

    def recall(self) -> StateDict | None:
        """Return this device's state of the round before; None: none, or the server does not count this round."""
        memory = self._memory()
        if memory is None:
            return None
        since = self.device.kept_since(self.requests)
        memory.forget_before(since)
        return memory.recall(str(self.config["phase"]), since, int(self.number("server-round")))

    def keep(self, state: StateDict | None) -> None:
        """Keep `state` for the next round."""
        memory = self._memory()
        if memory is not None and state is not None:
            since = self.device.kept_since(self.requests)
            memory.keep(state, str(self.config["phase"]), since, int(self.number("server-round")))

    def _memory(self) -> Memory | None:
        if "phase" not in self.config:
            return None
        if self.device.memory is None:
            raise InputError(
                f"objective '{self.device.settings.objective}' needs state on the device from round to round: "
                "set device-folder, in the node's config or in the run's"
            )
        return self.device.memory

    def local_round(self, state: StateDict | None) -> LocalRound:
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
            state=state,
            **(self._shared() if self.owns else {}),
        )

    def _shared(self) -> dict[str, Any]:
        """Return what else the round of a device with a personalised model needs."""
        settings = self.device.settings
        return {
            "shared": _arrays(self.message, "arrays"),
            "mentee": deepcopy(empty_model(settings.key())) if settings.mentee else None,
            "progress": progress(int(self.number("server-round")), settings.rounds),
        }

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Compute deterministically, and count the processor's seconds."""
        started = time.process_time()
        with deterministic(self.seed):
            yield
        self.seconds = time.process_time() - started

    def forgotten(self) -> Forgotten:
        """Carry out the method's step."""
        method, samples = method_of(self.device.settings), self.samples
        with self.timed():
            losses = method.on_device(
                self.model,
                samples,
                seed=self.seed,
                step=str(self.config.get("step", "forget")),
                config=self.numbers,
                extra=self.extra,
            )
        return Forgotten(self.model.state_dict(), len(samples), losses[-1])

    def reply(
        self, loss: float, state: StateDict, num_examples: int | None = None, more: Mapping[str, float] | None = None
    ) -> Message:
        """Return a reply with the model of `state` and the metrics of the work; `more` are further metrics."""
        count = len(self.samples) if num_examples is None else num_examples
        metrics = MetricRecord({"num-examples": count, "loss": loss, "cpu-seconds": self.seconds, **(more or {})})
        return _reply(self.message, self.device, {"arrays": ArrayRecord(dict(state)), "metrics": metrics}, self.config)


def _reply(
    message: Message,
    device: Device,
    records: Mapping[str, ArrayRecord | MetricRecord],
    config: ReceivedConfig = NOTHING,
) -> Message:
    """Return a reply of these records and what the device adds to them."""
    added = {name: ConfigRecord(dict(record)) for name, record in device.adds(config).items()}
    return Message(RecordDict({**records, **added}), reply_to=message)


def _settings(message: Message, context: Context) -> Settings:
    node = context.node_config
    if "kit" in node:
        return deployed_settings(context.run_config, _config(message))
    return Settings.from_run_config(context.run_config, int(node["num-partitions"]))


def _memory(message: Message, context: Context) -> Memory | None:
    node, settings = context.node_config, _settings(message, context)
    if "kit" in node:
        return memory_of(Kit.read(Path(str(node["kit"]))), settings)
    return SimulatedDevice(int(node["partition-id"]), settings, str(node.get("device-folder", ""))).memory


def _device(message: Message, context: Context) -> Device:
    node = context.node_config
    if "kit" in node:
        return deployed_device(Path(str(node["kit"])), context.run_config, str(context.run_id), _config(message))
    clients, folder = int(node["num-partitions"]), str(node.get("device-folder", ""))
    return simulated_device(context.run_config, int(node["partition-id"]), clients, folder)


def _simulated(device: Device) -> SimulatedDevice:
    """Return a device that can have a model of its own.

    Raises:
        InputError: it is deployed.
    """
    if not isinstance(device, SimulatedDevice):
        raise InputError(NOT_DEPLOYED.format(device.settings.objective))
    return device


def _config(message: Message) -> dict[str, Any]:
    return dict(message.content.config_records.get("config", {}))


def _record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _arrays(message: Message, record: str) -> dict[str, torch.Tensor]:
    return dict(message.content.array_records[record].to_torch_state_dict())
