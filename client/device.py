"""What a device knows: its settings, its share of the data and an empty model to fill."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedquit.client.datasets import Dataset, load_dataset
from fedquit.client.models import build_model
from fedquit.client.partition import partition
from fedquit.client.partition_file import load_partition
from fedquit.client.settings import Scalar, Settings
from fedquit.errors import InputError
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.seeds import derive_seed

Key = tuple[tuple[str, Scalar], ...]
StateDict = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Device:
    """Client number `partition_id` of a federation, with its `samples`."""

    partition_id: int
    settings: Settings
    samples: Samples

    def model(self, state: StateDict) -> nn.Module:
        """Return a model of the federation's kind with the weights of `state`."""
        model = copy.deepcopy(empty_model(self.settings.key()))
        model.load_state_dict(state)
        return model


def simulated_device(run_config: Mapping[str, Scalar], partition_id: int, clients: int) -> Device:
    """Return client `partition_id` of `clients`, its data cut from the whole training set."""
    settings = Settings.from_run_config(run_config, clients)
    index = split(settings.key())[partition_id]
    return Device(partition_id, settings, _share(settings.key(), partition_id, index.tobytes()))


@lru_cache(maxsize=128)
def _share(key: Key, partition_id: int, index: bytes) -> Samples:
    """Cut out a client's samples once in a process, so that its batches lie near each other in memory."""
    del partition_id
    return dataset_of(settings_of(key)).train.subset(torch.from_numpy(np.frombuffer(index, dtype=np.int64).copy()))


@lru_cache(maxsize=4)
def settings_of(key: Key) -> Settings:
    """Return the settings that `Settings.key` was made from."""
    return Settings.read(dict(key))


def dataset_of(settings: Settings) -> Dataset:
    """Return the data set that the settings name, decoded once in a process."""
    return load_dataset(
        settings.dataset,
        data_root=Path(settings.data_root).expanduser() if settings.data_root else None,
        download=settings.download,
        image_size=settings.image_size or None,
    )


@lru_cache(maxsize=4)
def split(key: Key) -> tuple[np.ndarray, ...]:
    """Return each client's indices into the training set, from the partition file if there is one.

    Raises:
        InputError: the file does not fit, or the settings ask for a split that cannot be.
    """
    settings = settings_of(key)
    train = dataset_of(settings).train
    if settings.partition:
        parts = load_partition(Path(settings.partition), len(train))
        if len(parts) != settings.clients:
            raise InputError(f"{settings.partition} holds {len(parts)} clients, but clients = {settings.clients}")
        return tuple(parts)
    column = None
    if settings.scheme == "column":
        columns = dataset_of(settings).columns
        if settings.column not in columns:
            raise InputError(
                f"column: the data has no column '{settings.column}'; it has: {', '.join(columns) or 'none'}"
            )
        column = columns[settings.column]
    return tuple(
        partition(
            train.labels.numpy(),
            clients=settings.clients,
            scheme=settings.scheme,
            alpha=settings.alpha,
            shards_per_client=settings.shards_per_client,
            classes_per_client=settings.classes_per_client,
            column=column,
            num_samples=settings.samples or None,
            seed=derive_seed(settings.seed, "partition") % 2**31,
        )
    )


@lru_cache(maxsize=4)
def empty_model(key: Key) -> nn.Module:
    """Return a model of the right kind whose weights do not matter; copy it before use."""
    return initial_model(settings_of(key), settings_of(key).seed)


def initial_model(settings: Settings, seed: int) -> nn.Module:
    """Return the federation's model with initial weights drawn from `seed`."""
    data = dataset_of(settings)
    return build_model(
        settings.model,
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        seed=derive_seed(seed, "initial model"),
    )
