"""Batch normalisation by the statistics that a model has, or by those of the samples that it is shown.

In training mode a layer normalises by the batch and moves its running statistics towards it. A model that learns from
the samples to forget would so hand their mean and variance to everybody, and a batch of one sample has no variance. In
inference mode the layer normalises by its running statistics, and its scale and shift still learn.
Source of the layer: Ioffe & Szegedy, arXiv 1502.03167, Algorithms 1 and 2.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from fedquit.errors import unknown
from fedquit.unlearning.tensors.inference import mode

STATISTICS = ("global", "local")


def check_statistics(statistics: str) -> None:
    """Refuse what is not in `STATISTICS`.

    >>> check_statistics("global")
    """
    if statistics not in STATISTICS:
        raise unknown("statistics", str(statistics), STATISTICS)


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Have each layer with running statistics normalise by them, and leave them as they are.

    >>> norm = nn.BatchNorm1d(1)
    >>> with kept_statistics(norm):
    ...     norm(torch.tensor([[3.0]])).round()
    tensor([[3.]], grad_fn=<RoundBackward0>)
    >>> norm.running_mean, norm.training
    (tensor([0.]), True)
    """
    layers = [layer for layer in model.modules() if isinstance(getattr(layer, "running_mean", None), Tensor)]
    before = [layer.training for layer in layers]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.training = was


@contextmanager
def buffers_put_back(model: nn.Module) -> Iterator[None]:
    """Give every buffer its old value at the end.

    >>> norm = nn.BatchNorm1d(1)
    >>> with buffers_put_back(norm):
    ...     _ = norm(torch.tensor([[1.0], [5.0]]))
    >>> norm.running_mean, norm.num_batches_tracked
    (tensor([0.]), tensor(0))
    """
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, old in zip(model.buffers(), before, strict=True):
                buffer.copy_(old)


@contextmanager
def unlearning_mode(model: nn.Module, statistics: str = "global") -> Iterator[None]:
    """Put a model that learns from the samples to forget into training mode, and each module back at the end.

    Args:
        model: dropout drops in it.
        statistics: "global": layers normalise by the running statistics that the model came with, and no buffer is
            another at the end; "local": they follow the samples, as in ordinary training.

    >>> norm = nn.BatchNorm1d(1)
    >>> with unlearning_mode(norm, "local"):
    ...     _ = norm(torch.tensor([[1.0], [5.0]]))
    >>> norm.running_mean
    tensor([0.3000])
    """
    check_statistics(statistics)
    with mode(model, training=True):
        if statistics == "local":
            yield
            return
        with kept_statistics(model), buffers_put_back(model):
            yield


def statistics_for(model: nn.Module, num_samples: int) -> AbstractContextManager[None]:
    """Return the context in which a batch goes through a model in training mode: one sample alone has no variance.

    >>> norm = nn.BatchNorm1d(1)
    >>> with statistics_for(norm, 1):
    ...     norm(torch.zeros(1, 1)).shape
    torch.Size([1, 1])
    """
    return kept_statistics(model) if num_samples == 1 else nullcontext()
