"""Data, split and model that the settings name, each made once in a process."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import nn

from fedquit.client.data.datasets import Dataset, load_dataset
from fedquit.client.data.partition import Indices, checked_size, partition
from fedquit.client.data.partition_file import load_partition
from fedquit.client.models.architectures import InputShape, build_model
from fedquit.errors import InputError
from fedquit.settings import Key, Settings, settings_of
from fedquit.unlearning.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Form:
    """What a model takes and gives: input shape (channels, height, width), and the classes by number.

    Attributes:
        input_shape: of one input.
        num_classes: how many classes there are.
        names: theirs, in order; empty if they are only numbered.
    """

    input_shape: InputShape
    num_classes: int
    names: tuple[str, ...] = ()


def dataset_of(settings: Settings) -> Dataset:
    """Return the data set that the settings name, decoded once in a process.

    Raises:
        InputError: it cannot be had, or is not of the form that the settings say.
    """
    data = load_dataset(
        settings.dataset,
        data_root=Path(settings.data_root).expanduser() if settings.data_root else None,
        download=settings.download,
        image_size=settings.image_size or None,
    )
    configured = configured_form(settings)
    if configured and (data.input_shape != configured.input_shape or data.num_classes != configured.num_classes):
        shape = "x".join(map(str, data.input_shape))
        raise InputError(
            f"dataset '{settings.dataset}' has {data.num_classes} classes of {shape} inputs: "
            f"leave classes and input-shape out, or set them so"
        )
    return data


def configured_form(settings: Settings) -> Form | None:
    """Return the form that the settings themselves say; None: they leave it to the data.

    >>> configured_form(Settings(classes="ill,well", input_shape="3x32x32"))
    Form(input_shape=(3, 32, 32), num_classes=2, names=('ill', 'well'))
    """
    if not settings.classes:
        return None
    channels, height, width = map(int, settings.input_shape.split("x"))
    if settings.classes.isdecimal():
        return Form((channels, height, width), int(settings.classes))
    names = tuple(name.strip() for name in settings.classes.split(","))
    return Form((channels, height, width), len(names), names)


def form_of(settings: Settings) -> Form:
    """Return the form that the settings say, as those of a deployment must, or else that of their data set.

    >>> form_of(Settings())
    Form(input_shape=(1, 8, 8), num_classes=10, names=())
    """
    configured = configured_form(settings)
    if configured:
        return configured
    data = dataset_of(settings)
    return Form(data.input_shape, data.num_classes)


def check_split(settings: Settings) -> None:
    """Refuse more clients than samples, which takes the data and nothing else.

    Raises:
        InputError: naming the settings; or the data cannot be had.
    """
    if not settings.partition:
        available = len(dataset_of(settings).train)
        checked_size(available, settings.clients, settings.scheme, settings.samples or None, _seed_of_split(settings))


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
            seed=_seed_of_split(settings),
        )
    )


def _seed_of_split(settings: Settings) -> int:
    return derive_seed(settings.seed_of_split, "partition") % 2**31


@lru_cache(maxsize=4)
def empty_model(key: Key) -> nn.Module:
    """Return a model of the right kind whose weights do not matter; copy it before use."""
    return initial_model(settings_of(key), 0)


def initial_model(settings: Settings, seed: int, name: str = "") -> nn.Module:
    """Return the model `name`, if empty the one that devices share, with initial weights drawn from `seed`."""
    form = form_of(settings)
    return build_model(
        name or settings.mentee or settings.model,
        input_shape=form.input_shape,
        num_classes=form.num_classes,
        seed=derive_seed(seed, "initial model"),
        init=settings.init,
    )
