"""What every loader returns, and the checks all of them share.

A loader turns its source into NumPy arrays; from there on one path checks shapes, types and labels, so a mistake in
any source is reported in the same words.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fedquit.client.data.datasets.checked_arrays import as_inputs, as_labels
from fedquit.errors import InputError
from fedquit.unlearning.samples import Samples

SPLIT_SEED = 2408_07587
TEST_SHARE = 0.2

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test samples with inputs [N, C, H, W] and labels in 0..num_classes-1.

    `columns` holds further values per training sample (name -> [N]), by which the data can be split among clients.
    Datasets are cached and shared: treat the tensors as read-only.
    """

    name: str
    train: Samples
    test: Samples
    num_classes: int
    columns: Columns = field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one input."""
        channels, height, width = self.train.inputs.shape[1:]
        return channels, height, width


def make_samples(inputs: ArrayLike, labels: ArrayLike, *, source: str, keys: tuple[str, str] = ("x", "y")) -> Samples:
    """Check one set of inputs and labels and keep it as tensors.

    Args:
        inputs: Images or rows, in a form `as_inputs` knows.
        labels: Class numbers [N].
        source: The file or factory to name in errors.
        keys: What inputs and labels are called there.

    Raises:
        InputError: Where they cannot be used, or differ in length.

    >>> make_samples(np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1], source="made.npz").inputs.shape
    torch.Size([4, 1, 8, 8])
    """
    x = as_inputs(inputs, f"{source}: {keys[0]}")
    y = as_labels(labels, f"{source}: {keys[1]}")
    if len(x) != len(y):
        raise InputError(f"{source}: {keys[0]} holds {len(x)} samples but {keys[1]} holds {len(y)} labels")
    return Samples(x, y)


def make_dataset(
    name: str,
    train: Samples,
    test: Samples,
    *,
    source: str,
    num_classes: int | None = None,
    columns: Columns | None = None,
) -> Dataset:
    """Put checked training and test samples together.

    Args:
        name: What the dataset is called in reports.
        train: Training samples.
        test: Test samples, of the same shape and type.
        source: The file or factory to name in errors.
        num_classes: Fixed number of classes; by default the largest label plus one.
        columns: Further values per training sample.

    Raises:
        InputError: If the two do not fit together, or there are fewer than two classes.
    """
    shapes = [tuple(samples.inputs.shape[1:]) for samples in (train, test)]
    types = [samples.inputs.dtype for samples in (train, test)]
    if shapes[0] != shapes[1] or types[0] != types[1]:
        raise InputError(
            f"{source}: training inputs are {types[0]} {shapes[0]} but test inputs are {types[1]} {shapes[1]}"
        )
    top = int(max(train.labels.max(), test.labels.max()))
    if num_classes is not None and top >= num_classes:
        raise InputError(f"{source}: label {top} is out of range; {name} has {num_classes} classes")
    if bool((train.labels == train.labels[0]).all()):
        raise InputError(f"{source}: every training label is {int(train.labels[0])}; at least two classes are needed")
    return Dataset(name, train, test, num_classes or top + 1, dict(columns or {}))


def split_and_make(
    name: str, samples: Samples, *, source: str, num_classes: int | None = None, columns: Columns | None = None
) -> Dataset:
    """Hold a fifth of each class out for testing, the same fifth in every run, and make the dataset.

    The split has a fixed seed of its own, never the run's: runs with different seeds are tested on the same samples.

    >>> whole = make_samples(np.zeros((20, 8, 8), np.uint8), [0, 1] * 10, source="made.npz")
    >>> made = split_and_make("made", whole, source="made.npz")
    >>> len(made.train), made.test.labels.tolist()
    (16, [0, 1, 0, 1])
    """
    held_out = _held_out(samples.labels.numpy())
    if not held_out.any():
        raise InputError(f"{source}: no class has the two samples needed to hold one out for testing")
    kept, tested = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    return make_dataset(
        name,
        samples.subset(torch.from_numpy(kept)),
        samples.subset(torch.from_numpy(tested)),
        source=source,
        num_classes=num_classes,
        columns={key: values[kept] for key, values in (columns or {}).items()},
    )


def _held_out(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the test samples [N]: a fifth of each class, at least one where a class has two."""
    rng = np.random.default_rng(SPLIT_SEED)
    mask = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = max(round(TEST_SHARE * len(members)), 1) if len(members) > 1 else 0
        mask[members[:count]] = True
    return mask
