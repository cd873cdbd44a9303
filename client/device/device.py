"""A device: its settings, its samples, which of them are to be forgotten, and an empty model to fill.

One protocol, two of them: a client of a simulation, here, and a device with a kit
(`fedquit.client.device.deployed_device`).
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from fedquit.client.data.build_data_and_model import dataset_of, empty_model
from fedquit.client.data.forget_sets import to_forget, to_keep
from fedquit.client.device.memory import Memory
from fedquit.client.device.record.record_rows import Forgotten
from fedquit.client.models.copy_model import copied
from fedquit.client.personal.personal_models import begun_after, empty_own_model, own_model
from fedquit.client.training.build_objective import objective_of
from fedquit.errors import unknown
from fedquit.settings import Key, Scalar, Settings, settings_of
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.tensors.accelerator import placed, placed_samples
from fedquit.unlearning.tensors.convert import StateDict

ReceivedConfig = Mapping[str, Any]
"""The config of a message as it came: any text, number, bytes or list under any name."""
NOTHING: ReceivedConfig = MappingProxyType({})


class Device(Protocol):
    """What the ClientApp needs of a device; `config` is always the config of the server's message."""

    @property
    def settings(self) -> Settings:
        """The run's settings."""
        ...

    @property
    def memory(self) -> Memory | None:
        """Its state from round to round; None: it was given no folder."""
        ...

    def at_work(self, exercise: str, config: ReceivedConfig) -> AbstractContextManager[object]:
        """Return the context of one message: "query", "train", "forget" or "evaluate".

        Raises:
            InputError: this device does not do that.
        """
        ...

    def who(self) -> dict[str, int]:
        """Return how it identifies itself, and how many samples it has."""
        ...

    def samples(self, config: ReceivedConfig = NOTHING) -> Samples:
        """Return the samples that a message is about."""
        ...

    def kept_since(self, requests: int) -> int:
        """Return the index of the last request that invalidated this device's saved state; 0: none did.

        Args:
            requests: number of requests in force.
        """
        ...

    def model(self, state: StateDict) -> nn.Module:
        """Return a model of the kind that devices share with the weights of `state`."""
        ...

    def trained(self, config: ReceivedConfig, sent: StateDict) -> None:
        """Take note of a round before its model is sent."""
        ...

    def forget(
        self, config: ReceivedConfig, model: nn.Module, extra: StateDict | None, carry_out: Callable[[], Forgotten]
    ) -> Forgotten:
        """Carry out a forget step, or repeat the reply of an earlier attempt.

        Args:
            config: what the message says.
            model: the one that was sent; `carry_out` changes it in place.
            extra: more tensors that were sent.
            carry_out: the method's step.
        """
        ...

    def noise_seed(self, config: ReceivedConfig) -> int:
        """Return the seed of the noise, which the server must not be able to compute; the same for the same message."""
        ...

    def adds(self, config: ReceivedConfig) -> Mapping[str, Mapping[str, str | bytes]]:
        """Return what its reply contains besides the model and the metrics: records by name."""
        ...


@dataclass(frozen=True)
class SimulatedDevice:
    """Client number `partition_id` of a simulation; `folder` is its own place on the disk, the settings' if empty."""

    partition_id: int
    settings: Settings
    folder: str = ""

    @property
    def memory(self) -> Memory | None:
        """See `Device`."""
        folder = self.folder or self.settings.device_folder
        return Memory.of(Path(folder).expanduser(), self.settings, self.partition_id) if folder else None

    def at_work(self, exercise: str, config: ReceivedConfig) -> AbstractContextManager[object]:
        """See `Device`; a forget message deletes the state saved before it."""
        if exercise == "forget" and self.memory is not None:
            self.memory.forget_before(self.kept_since(int(config.get("requests", 0))))
        return nullcontext()

    def who(self) -> dict[str, int]:
        """See `Device`."""
        return {
            "partition-id": self.partition_id,
            "num-partitions": self.settings.clients,
            "num-examples": len(self.samples()),
        }

    def samples(self, config: ReceivedConfig = NOTHING) -> Samples:
        """Return samples of this device: `samples` is "keep" or "forget", `requests` how many are in force.

        "keep": what remains after `requests` requests. "forget": what the last of them is about.
        """
        which, requests = str(config.get("samples", "keep")), int(config.get("requests", 0))
        if which not in ("keep", "forget"):
            raise unknown("kind of samples", which, ("keep", "forget"))
        key = self.settings.key()
        parts = to_keep(key, requests) if which == "keep" else to_forget(key, requests - 1)
        return _cut(key, parts[self.partition_id].tobytes())

    def kept_since(self, requests: int) -> int:
        """See `Device`; a model of its own outlives the requests of others."""
        owns = objective_of(self.settings).needs().owns
        return begun_after(self.settings, self.partition_id, requests) if owns else requests

    def model(self, state: StateDict) -> nn.Module:
        """See `Device`."""
        return model_with(self.settings, state)

    def own_model(self, state: StateDict | None, seed: int) -> nn.Module:
        """Return this device's personalised model with the weights of `state`; None: new weights, drawn from `seed`."""
        if state is None:
            return placed(own_model(self.settings, self.partition_id, seed))
        model = empty_own_model(self.settings, self.partition_id)
        model.load_state_dict(state)
        return placed(model)

    def trained(self, config: ReceivedConfig, sent: StateDict) -> None:
        """See `Device`; a simulation's own files say it all."""

    def forget(
        self, config: ReceivedConfig, model: nn.Module, extra: StateDict | None, carry_out: Callable[[], Forgotten]
    ) -> Forgotten:
        """See `Device`."""
        del config, model, extra
        return carry_out()

    def noise_seed(self, config: ReceivedConfig) -> int:
        """See `Device`; in a simulation it need not be secret."""
        return derive_seed(int(config["seed"]), "noise")

    def adds(self, config: ReceivedConfig) -> Mapping[str, Mapping[str, str | bytes]]:
        """See `Device`."""
        del config
        return {}


def model_with(settings: Settings, state: StateDict) -> nn.Module:
    """Return a model of the settings' kind with the weights of `state`."""
    model = copied(empty_model(settings.key()))
    model.load_state_dict(state)
    return placed(model)


def simulated_device(
    run_config: Mapping[str, Scalar], partition_id: int, clients: int, folder: str = ""
) -> SimulatedDevice:
    """Return client `partition_id` of `clients`, its data cut from the whole training set."""
    return SimulatedDevice(partition_id, Settings.from_run_config(run_config, clients), folder)


@lru_cache(maxsize=256)
def _cut(key: Key, index: bytes) -> Samples:
    """Cut samples out once in a process, so that batches lie near each other in memory."""
    return placed_samples(
        dataset_of(settings_of(key)).train.subset(torch.from_numpy(np.frombuffer(index, dtype=np.int64).copy()))
    )
