"""Data, split and model that the settings name, each made once in a process."""

from functools import lru_cache
from pathlib import Path

from torch import nn

from fedquit.client.datasets import Dataset, load_dataset
from fedquit.client.models import build_model
from fedquit.client.partition import Indices, partition
from fedquit.client.partition_file import load_partition
from fedquit.client.settings import Key, Settings, settings_of
from fedquit.errors import InputError
from fedquit.unlearning.seeds import derive_seed


def dataset_of(settings: Settings) -> Dataset:
    """Return the data set that the settings name, decoded once in a process."""
    return load_dataset(
        settings.dataset,
        data_root=Path(settings.data_root).expanduser() if settings.data_root else None,
        download=settings.download,
        image_size=settings.image_size or None,
    )


@lru_cache(maxsize=4)
def split(key: Key) -> tuple[Indices, ...]:
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
            seed=derive_seed(settings.seed_of_split, "partition") % 2**31,
        )
    )


@lru_cache(maxsize=4)
def empty_model(key: Key) -> nn.Module:
    """Return a model of the right kind whose weights do not matter; copy it before use."""
    return initial_model(settings_of(key), 0)


def initial_model(settings: Settings, seed: int) -> nn.Module:
    """Return the federation's model with initial weights drawn from `seed`."""
    data = dataset_of(settings)
    return build_model(
        settings.model,
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        seed=derive_seed(seed, "initial model"),
    )
