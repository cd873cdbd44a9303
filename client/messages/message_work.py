"""One message as work: its model, samples, seed and config, what the device keeps between rounds, and the reply."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from typing import Any

from flwr.app import Context, Message, MetricRecord
from torch import nn

from fedquit.client.data.build_data_and_model import empty_model
from fedquit.client.device.memory import Memory
from fedquit.client.device.record import Forgotten
from fedquit.client.messages.message_records import (
    as_simulated,
    config_of,
    device_of,
    received_tensors,
    record_of,
    reply_to,
)
from fedquit.client.messages.trained_ahead import trained_ahead
from fedquit.client.objectives import Done, LocalRound, Objective, make_objective, progress
from fedquit.client.personal.personal_evaluation import round_measures, stage_measures
from fedquit.client.training.build_method import method_of
from fedquit.client.training.build_objective import objective_of
from fedquit.client.training.sgd import deterministic
from fedquit.errors import InputError
from fedquit.unlearning.leak.blurred_step import blurred
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.accelerator import on_cpu, placed
from fedquit.unlearning.tensors.arithmetic import parameter_names
from fedquit.unlearning.tensors.convert import StateDict, arrays_of


class Work:
    """One message as work: its model, samples, seed and config; and the reply to it."""

    def __init__(self, message: Message, context: Context) -> None:
        self.message, self.device = message, device_of(message, context)
        self.config = config_of(message)
        self.numbers = {key: value for key, value in self.config.items() if isinstance(value, int | float)}
        self.seed = int(self.number("seed"))
        self.requests = int(self.number("requests", 0))
        self.owns = self.objective().needs().owns
        self.extra = received_tensors(message, "extra") if "extra" in message.content.array_records else None
        self.seconds = 0.0

    @cached_property
    def model(self) -> nn.Module:
        """The model that was sent."""
        return self.device.model(received_tensors(self.message, "arrays"))

    def own_model(self, state: StateDict | None) -> nn.Module:
        """Return the device's personalised model from its state, or with initial weights."""
        weights = None if state is None else self.objective().own_model(state)
        return as_simulated(self.device).own_model(weights, int(self.number("model-seed")))

    def measures(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics of the personalised model: more at the end of a phase than after a round."""
        device = as_simulated(self.device)
        if self.number("stage"):
            return stage_measures(model, device.settings, device.partition_id)
        return round_measures(model, device.settings)

    @cached_property
    def samples(self) -> Samples:
        """What the message is about."""
        return self.device.samples(self.config)

    def trained_ahead(self) -> Done | None:
        """Return the result of training that was done before, stacked; None: it is still to be done."""
        ahead = trained_ahead(self.message)
        if ahead is None:
            return None
        self.seconds = ahead.seconds
        return ahead.done

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
            memory.keep(on_cpu(state), str(self.config["phase"]), since, int(self.number("server-round")))

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
            "shared": received_tensors(self.message, "arrays"),
            "mentee": placed(deepcopy(empty_model(settings.key()))) if settings.mentee else None,
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
        if self.device.settings.forget_clip and self.config.get("samples", "forget") == "forget":
            return self._blurred(len(samples), losses[-1])
        return Forgotten(on_cpu(self.model.state_dict()), len(samples), losses[-1])

    def _blurred(self, count: int, loss: float) -> Forgotten:
        """Return what forgetting gave, clipped and with noise; with noise nothing else that tells of the samples."""
        settings, model = self.device.settings, self.model
        state = blurred(
            on_cpu(model.state_dict()),
            received_tensors(self.message, "arrays"),
            parameter_names(model),
            clip=settings.forget_clip,
            noise=settings.forget_noise,
            seed=self.device.noise_seed(self.config),
        )
        model.load_state_dict(state)
        if settings.forget_noise:
            self.seconds = loss = 0.0  # the time that it took tells of the samples too
        return Forgotten(state, count, loss)

    def reply(
        self, loss: float, state: StateDict, num_examples: int | None = None, more: Mapping[str, float] | None = None
    ) -> Message:
        """Return a reply with the model of `state` and the metrics of the work; `more` are further metrics."""
        count = len(self.samples) if num_examples is None else num_examples
        metrics = MetricRecord({"num-examples": count, "loss": loss, "cpu-seconds": self.seconds, **(more or {})})
        record = record_of(arrays_of(on_cpu(state)))
        return reply_to(self.message, self.device, {"arrays": record, "metrics": metrics}, self.config)
