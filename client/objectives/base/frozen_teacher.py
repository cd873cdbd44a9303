"""A teacher is asked and never changed: parameters and buffers stay as they were, bit for bit.

In evaluation mode what it says of a sample depends on that sample alone, so it is asked once about all of them, before
the student moves: the student itself, still the global model, can be the teacher, and nothing is copied. In training
mode dropout drops and batch normalisation takes the batch's own statistics; a copy is asked batch by batch, and its
running statistics are put back each time.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedquit.client.training.sgd import Batch
from fedquit.errors import InputError
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.batch_norm import buffers_put_back, statistics_for
from fedquit.unlearning.tensors.inference import device_of, mode

MODES = ("eval", "train")
CHUNK = 256
View = Callable[[nn.Module, Tensor], tuple[Tensor, ...]]


def logits_of(model: nn.Module, inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the model's logits [B, C], alone in a tuple.

    >>> logits_of(nn.Identity(), torch.ones(1, 2))
    (tensor([[1., 1.]]),)
    """
    return (model(inputs),)


def logits_and_features(model: nn.Module, inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the model's logits [B, C], and the features [B, d] that its last linear layer makes them from.

    >>> logits, features = logits_and_features(nn.Sequential(nn.ReLU(), nn.Linear(2, 3)), torch.tensor([[-1.0, 4.0]]))
    >>> features
    tensor([[0., 4.]])
    """
    seen: list[Tensor] = []
    handle = head_of(model).register_forward_pre_hook(lambda _layer, given: seen.append(given[0]))
    try:
        logits = model(inputs)
    finally:
        handle.remove()
    return logits, seen[-1].flatten(1)


def head_of(model: nn.Module) -> nn.Linear:
    """Return the model's last linear layer.

    Raises:
        InputError: it has none.

    >>> head_of(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4))).out_features
    4
    """
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise InputError("the model has no linear layer whose input could be its features; choose mlp, cnn or resnet18")
    return linear[-1]


class Teacher:
    """What a model says of a client's samples, without gradient.

    Args:
        model: as it is now; later changes do not matter.
        samples: all that will be asked about.
        how: "eval" or "train", see this module's docstring.
        view: what of it is wanted.

    >>> samples = Samples(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 0]))
    >>> Teacher(nn.Identity(), samples)(Batch(torch.tensor([1]), samples.inputs[1:], samples.labels[1:]))
    (tensor([[2.]]),)
    """

    def __init__(self, model: nn.Module, samples: Samples, how: str = "eval", view: View = logits_of) -> None:
        self._view = view
        self._copy = copy.deepcopy(model) if how == "train" else None
        if how == "eval":
            with torch.no_grad(), mode(model, training=False), buffers_put_back(model):
                starts = range(0, len(samples), CHUNK)
                place = device_of(model)
                parts = [view(model, samples.batch(slice(start, start + CHUNK))[0].to(place)) for start in starts]
            self._said = tuple(torch.cat(part) for part in zip(*parts, strict=True))

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return what it says of the batch."""
        if self._copy is None:
            return tuple(part[batch.index] for part in self._said)
        training, alone = mode(self._copy, training=True), statistics_for(self._copy, len(batch.index))
        with torch.no_grad(), buffers_put_back(self._copy), training, alone:
            return self._view(self._copy, batch.inputs.to(device_of(self._copy)))


def said_of_all(model: nn.Module, samples: Samples, how: str = "eval", view: View = logits_of) -> tuple[Tensor, ...]:
    """Return what a model says of every sample, on the CPU, without gradient and without changing it.

    >>> said_of_all(nn.Identity(), Samples(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 0])))
    (tensor([[1.],
            [2.]]),)
    """
    teacher = Teacher(model, samples, how, view)
    places = torch.arange(len(samples)).tensor_split(-(-len(samples) // CHUNK))
    parts = [teacher(Batch(place, *samples.batch(place))) for place in places]
    return tuple(torch.cat(part).cpu() for part in zip(*parts, strict=True))
