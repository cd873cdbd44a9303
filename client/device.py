"""What a device knows: its settings, its samples, which of them are to be forgotten, and an empty model to fill."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedquit.client.memory import Memory
from fedquit.client.request import to_forget, to_keep
from fedquit.client.settings import Key, Scalar, Settings, settings_of
from fedquit.client.share import dataset_of, empty_model
from fedquit.errors import unknown
from fedquit.unlearning.samples import Samples

StateDict = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Device:
    """Client number `partition_id` of a federation; `folder` is its own place on the disk, the settings' if empty."""

    partition_id: int
    settings: Settings
    folder: str = ""

    @property
    def memory(self) -> Memory | None:
        """What it keeps from round to round; None: it was given no folder."""
        folder = self.folder or self.settings.device_folder
        return Memory.of(Path(folder).expanduser(), self.settings, self.partition_id) if folder else None

    def samples(self, which: str = "keep", requests: int = 0) -> Samples:
        """Return samples of this device.

        Args:
            which: "keep": what is left after so many requests; "forget": what the last of so many is about.
            requests: how many; 0 and "keep": all.
        """
        if which not in ("keep", "forget"):
            raise unknown("kind of samples", which, ("keep", "forget"))
        key = self.settings.key()
        parts = to_keep(key, requests) if which == "keep" else to_forget(key, requests - 1)
        return _cut(key, parts[self.partition_id].tobytes())

    def model(self, state: StateDict) -> nn.Module:
        """Return a model of the federation's kind with the weights of `state`."""
        model = copy.deepcopy(empty_model(self.settings.key()))
        model.load_state_dict(state)
        return model


def simulated_device(run_config: Mapping[str, Scalar], partition_id: int, clients: int, folder: str = "") -> Device:
    """Return client `partition_id` of `clients`, its data cut from the whole training set."""
    return Device(partition_id, Settings.from_run_config(run_config, clients), folder)


@lru_cache(maxsize=256)
def _cut(key: Key, index: bytes) -> Samples:
    """Cut samples out once in a process, so that batches lie near each other in memory."""
    return dataset_of(settings_of(key)).train.subset(torch.from_numpy(np.frombuffer(index, dtype=np.int64).copy()))
