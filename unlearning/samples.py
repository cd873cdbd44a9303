"""Labelled samples held in memory: decoded once, kept as tensors, normalised a batch at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs [N, ...] as uint8 (0..255) or float32, and integer labels [N].

    uint8 inputs are read as `x / 127.5 - 1`, so in [-1, 1]; float inputs are used as they are.

    >>> samples = Samples(torch.tensor([[0], [255]], dtype=torch.uint8), torch.tensor([3, 1]))
    >>> samples.batch(torch.tensor([1, 0]))
    (tensor([[ 1.],
            [-1.]]), tensor([1, 3]))
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return the inputs, normalised to float32, and the labels at `index`."""
        return normalised(self.inputs[index]), self.labels[index]

    def subset(self, index: Tensor) -> "Samples":
        """Return the samples at the integer `index` [M], in that order."""
        return Samples(self.inputs[index], self.labels[index])


def normalised(inputs: Tensor) -> Tensor:
    """Return inputs of either type as float32, as a model sees them.

    >>> normalised(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])
    """
    return inputs.float().div_(127.5).sub_(1.0) if inputs.dtype == torch.uint8 else inputs


def batch_sizes(size: int, batch_size: int) -> list[int]:
    """Return how many of `size` samples each batch of an epoch has.

    A trailing batch of one joins the batch before it: batch normalisation cannot train on one sample.

    >>> batch_sizes(9, 4), batch_sizes(1, 4)
    ([4, 5], [1])
    """
    sizes = [min(batch_size, size - start) for start in range(0, size, batch_size)]
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [sizes[-2] + 1]
    return sizes


def shuffled_batches(size: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield index tensors that cover `range(size)` once, in an order drawn from `generator`.

    >>> [len(b) for b in shuffled_batches(9, 4, torch.Generator().manual_seed(0))]
    [4, 5]
    """
    yield from torch.split(torch.randperm(size, generator=generator), batch_sizes(size, batch_size))
