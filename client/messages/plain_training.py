"""Train devices of a simulation without messages: the same round of the same objective, and the same model.

It is for rounds in which a model goes to all and models like it come back (`Train` in `fedquit.strategies.rounds`),
where small models would take longer to be put into messages than to be trained.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache

import torch
from torch import Tensor, nn

from fedquit.client.data.build_data_and_model import empty_model
from fedquit.client.device.device import SimulatedDevice
from fedquit.client.messages.trained_ahead import why_one_by_one
from fedquit.client.models.copy_model import copied, is_plain
from fedquit.client.objectives import Done, LocalRound, Objective
from fedquit.client.training.build_objective import objective_of
from fedquit.client.training.sgd import deterministic
from fedquit.client.training.stacked_sgd import Stack, Stacking
from fedquit.settings import Key, Settings
from fedquit.unlearning.tensors.convert import StateDict

TrainMetrics = dict[str, int | float]


class PlainTraining:
    """Devices of one round, trained in this process.

    Args:
        settings: of the run.
        received: the model that goes to all.
        config: of every message, except its seed.
    """

    def __init__(self, settings: Settings, received: StateDict, config: Mapping[str, float | str]) -> None:
        self._settings, self._received, self._config = settings, received, config
        self._objective = objective_of(settings)
        self._reused: nn.Module | None = None
        self._entries: list[Tensor] = []  # its, in the order of those received
        self._reusable = self._is_reusable()

    def train(self, client: int, seed: int) -> tuple[Done, TrainMetrics]:
        """Train a device; what is sent may be overwritten when the next one is trained."""
        samples = SimulatedDevice(client, self._settings).samples(self._config)
        model, local_round = self._model(), self._local_round(seed)
        started = time.process_time()
        with deterministic(seed):
            done = self._objective.train(model, samples, local_round)
        return done, self._metrics(len(samples), done.loss, time.process_time() - started)

    def train_stacked(self, clients: Sequence[int], seeds: Sequence[int]) -> tuple[Stack, list[TrainMetrics]] | None:
        """Train devices at once; return them with the metrics of each row; None: they can only be trained one by one.

        Raises:
            RuntimeError: the model does something that cannot be stacked.
        """
        if len(clients) < 2 or not self._stackable:
            return None
        started, how = time.process_time(), self._local_round(0)
        samples = [SimulatedDevice(client, self._settings).samples(self._config) for client in clients]
        with deterministic(0):
            stack = _stacking(self._settings.key())().fit(
                self._received,
                samples,
                seeds,
                lr=how.lr,
                epochs=how.epochs,
                batch_size=how.batch_size,
                momentum=how.momentum,
                weight_decay=how.weight_decay,
            )
        each = (time.process_time() - started) / sum(stack.counts)
        return stack, [self._metrics(n, loss, each * n) for n, loss in zip(stack.counts, stack.losses, strict=True)]

    @cached_property
    def _stackable(self) -> bool:
        return not why_one_by_one(self._settings)

    @staticmethod
    def _metrics(count: int, loss: float, seconds: float) -> TrainMetrics:
        return {"num-examples": count, "loss": loss, "cpu-seconds": seconds}

    def _local_round(self, seed: int) -> LocalRound:
        settings, config = self._settings, self._config
        return LocalRound(
            seed=seed,
            lr=float(config["lr"]),
            epochs=int(config.get("epochs", settings.local_epochs)),
            batch_size=settings.batch_size,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )

    def _is_reusable(self) -> bool:
        """Say whether training leaves nothing in a model besides its weights, so that one model can serve all."""
        kind = type(self._objective)
        ordinary = kind.loss is Objective.loss and kind.train is Objective.train
        return ordinary and is_plain(empty_model(self._settings.key()))

    def _model(self) -> nn.Module:
        """Return a model with the weights that were received."""
        if self._reused is None or not self._reusable:
            self._reused = SimulatedDevice(0, self._settings).model(self._received)
            own = self._reused.state_dict()
            self._entries = [own[name] for name in self._received]
            return self._reused
        with torch.no_grad():
            for entry, value in zip(self._entries, self._received.values(), strict=True):
                entry.copy_(value)
        return self._reused


@lru_cache(maxsize=4)
def _stacking(key: Key) -> Callable[[], Stacking]:
    """Return a function that gives what trains devices of a run at once: a new one where a model may keep something."""
    model = empty_model(key)
    if not is_plain(model):
        return lambda: Stacking(copied(model))
    kept = Stacking(copied(model))
    return lambda: kept
