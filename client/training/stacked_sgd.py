"""Local training of many devices at once: their models stacked, so that one operation does a step of all of them.

A small model's step takes less time than the calls of Python and PyTorch that carry it out. Stacked, these calls are
made once for all devices. Every device still has its own samples, shuffle and number of steps: shorter batches are
padded with samples of weight 0, and a device that has finished takes part in no further step.

The arithmetic is that of `fedquit.client.training.sgd.fit`, but products of stacked matrices may be summed in another
order, so the models agree up to rounding and not bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fedquit.client.training.stacked_layers import Gradients, Weights, gradients_of_sequence
from fedquit.unlearning.samples import Samples, batch_sizes, normalised
from fedquit.unlearning.tensors.convert import StateDict


def cannot_stack(model: nn.Module) -> str:
    """Return why copies of a model cannot be trained stacked; "": they can.

    >>> cannot_stack(nn.Linear(2, 2)), cannot_stack(nn.Sequential(nn.BatchNorm1d(2)))
    ('', 'its BatchNorm1d has statistics that training changes')
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            return f"its {type(module).__name__} has statistics that training changes"
        if isinstance(module, _DropoutNd) and module.p:
            return f"its {type(module).__name__} draws from the generator of one device"
    if [name for name, _ in model.named_parameters()] != list(model.state_dict()):
        return "it has entries besides its parameters, or shares some"
    if any(value.dtype != torch.float32 for value in model.parameters()):
        return "its parameters are not all float32"
    return ""


@dataclass(frozen=True, slots=True)
class _Steps:
    """The batches of devices that are ordered by their number of steps, most first.

    Attributes:
        inputs: the samples of all devices, one after the other.
        labels: theirs.
        index: of each step, into these, [k, B]; k: devices that take the step, B: the longest batch of it.
        weights: of each step, 1 / (batch size) for a sample that counts, 0 for one that pads, [k, B].
        sizes: of each step, the devices' batch sizes [k].
        last: of each device, the step at which its last epoch begins.
    """

    inputs: Tensor
    labels: Tensor
    index: list[Tensor]
    weights: list[Tensor]
    sizes: list[Tensor]
    last: Tensor


class Rows:
    """Where each of some tensors is in a row of numbers, so that one operation does what all of them need.

    Args:
        tensors: one device's, all of the same type.

    >>> Rows({"w": torch.zeros(2, 3), "b": torch.zeros(2)}).taken_apart(torch.zeros(4, 8))["w"].shape
    torch.Size([4, 2, 3])
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._shapes = {name: value.shape for name, value in tensors.items()}
        self._sizes = [value.numel() for value in tensors.values()]

    def joined(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the tensors of one device as a row."""
        return torch.cat([tensors[name].reshape(-1) for name in self._shapes])

    def taken_apart(self, rows: Tensor) -> dict[str, Tensor]:
        """Return views of the tensors in `rows` [k, P]: name -> [k, ...]."""
        parts = rows.split(self._sizes, dim=1)
        return {
            name: part.view(len(rows), *shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }


@dataclass(frozen=True, slots=True)
class Stack:
    """Devices after their training, a row each.

    Attributes:
        places: of each row, which of the devices given it is.
        rows: their trainable weights, one after the other [k, P].
        start: those that all devices started from [P].
        weights: name -> all their weights [k, ...]; of what was trained a view of `rows`.
        losses: of each row, the mean loss of its last epoch, nats.
    """

    places: list[int]
    rows: Tensor
    start: Tensor
    weights: dict[str, Tensor]
    losses: list[float]

    def lengths(self) -> list[float]:
        """Return the length of each device's step, over all trainable weights."""
        space = torch.empty_like(self.start)  # of one device, so that it stays in the processor's cache
        squares = [torch.dot(torch.sub(row, self.start, out=space), space) for row in self.rows.unbind()]
        return torch.stack(squares).double().sqrt().tolist()


def fit_stacked(
    model: nn.Module, samples: Sequence[Samples], seeds: Sequence[int], **how: Any
) -> list[tuple[StateDict, float]]:
    """Train a copy of `model` on the samples of each device; return its weights and the mean loss of its last epoch.

    See `fit_stack` for the arguments and errors.

    >>> line = Samples(torch.linspace(-1, 1, 64)[:, None], (torch.linspace(-1, 1, 64) > 0).long())
    >>> found = fit_stacked(nn.Linear(1, 2), [line, line.subset(torch.arange(9))], [3, 4], lr=0.5)
    >>> [sorted(state) for state, loss in found]
    [['bias', 'weight'], ['bias', 'weight']]
    """
    stack = fit_stack(model, samples, seeds, **how)
    found = {
        place: ({name: value[row] for name, value in stack.weights.items()}, stack.losses[row])
        for row, place in enumerate(stack.places)
    }
    return [found[place] for place in range(len(samples))]


def fit_stack(
    model: nn.Module,
    samples: Sequence[Samples],
    seeds: Sequence[int],
    *,
    lr: float,
    epochs: int = 1,
    batch_size: int = 32,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> Stack:
    """Train a copy of `model` on the samples of each device, stacked.

    All devices take their first step from the same weights, which are not copied for it.

    Args:
        model: where all start; it stays as it is.
        samples: of each device.
        seeds: of each device's shuffle.
        lr: step size of SGD.
        epochs: over each device's samples.
        batch_size: samples of a device in a step.
        momentum: of SGD.
        weight_decay: of SGD.

    Raises:
        RuntimeError: the model does something that cannot be stacked.
    """
    order, steps = _steps(samples, seeds, epochs, batch_size)
    model.train()
    trainable = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    form, gradients = Rows(trainable), gradients_of_sequence(model) or gradients_of_any(model)
    start = form.joined(trainable)
    rows, velocity = start.expand(len(samples), -1), torch.Tensor()
    same = {name: value.detach().expand(len(samples), *value.shape) for name, value in model.named_parameters()}
    weights = same
    total = torch.zeros(len(samples), dtype=torch.float64)
    for step, index in enumerate(steps.index):
        k = len(index)
        inputs, labels = normalised(steps.inputs[index]), steps.labels[index]
        gradient = torch.empty(k, len(start))
        now = {name: value[:k] for name, value in weights.items()}
        values = gradients(now, inputs, labels, steps.weights[step], form.taken_apart(gradient))
        total[:k] += values * steps.sizes[step] * (step >= steps.last[:k])
        if weight_decay:
            gradient.add_(rows[:k], alpha=weight_decay)
        if momentum:
            velocity = velocity[:k].mul_(momentum).add_(gradient) if step else gradient
            gradient = velocity
        if step:
            rows[:k].add_(gradient, alpha=-lr)
        else:  # into memory that is there: new pages take longer than the sum
            rows = torch.add(rows, gradient, alpha=-lr, out=None if momentum else gradient)
            weights = same | form.taken_apart(rows)
    means = total / torch.tensor([len(samples[place]) for place in order])
    return Stack(order, rows, start, weights, means.tolist())


def gradients_of_any(model: nn.Module) -> Gradients:
    """Return a function that computes the gradients of a model, whatever layers it has."""

    def losses(weights: Weights, inputs: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = functional_call(model, dict(weights), (inputs,))
        return F.cross_entropy(logits, labels, reduction="none")

    def gradients(weights: Weights, inputs: Tensor, labels: Tensor, shares: Tensor, into: Weights) -> Tensor:
        now = {name: value.detach().requires_grad_(name in into) for name, value in weights.items()}
        means = (torch.vmap(losses)(now, inputs, labels) * shares).sum(dim=1)
        found = torch.autograd.grad(means.sum(), [now[name] for name in into])
        for space, gradient in zip(into.values(), found, strict=True):
            space.copy_(gradient)
        return means.detach()

    return gradients


def _steps(samples: Sequence[Samples], seeds: Sequence[int], epochs: int, batch_size: int) -> tuple[list[int], _Steps]:
    """Return the devices by their number of steps, most first, and their steps."""
    each = [batch_sizes(len(own), batch_size) for own in samples]
    order = sorted(range(len(samples)), key=lambda place: -len(each[place]))
    orders = _shuffled(samples, seeds, epochs)[order]
    most = len(each[order[0]])
    sizes = torch.tensor([each[p] * epochs + [0] * ((most - len(each[p])) * epochs) for p in order])
    starts = sizes.cumsum(1) - sizes
    index, weights, counts = list[Tensor](), list[Tensor](), list[Tensor]()
    for step, k in enumerate((sizes > 0).sum(0).tolist()):
        own = sizes[:k, step]
        places = torch.arange(int(own.max()))
        index.append(orders[:k].gather(1, (starts[:k, step, None] + places).clamp_(max=orders.shape[1] - 1)))
        weights.append((places < own[:, None]) / own[:, None])
        counts.append(own)
    inputs, labels = (torch.cat([getattr(own, part) for own in samples]) for part in ("inputs", "labels"))
    last = torch.tensor([len(each[place]) * (epochs - 1) for place in order])
    return order, _Steps(inputs, labels, index, weights, counts, last)


def _shuffled(samples: Sequence[Samples], seeds: Sequence[int], epochs: int) -> Tensor:
    """Return each device's samples in the order of its epochs, as places among those of all devices.

    A row is filled up with a sample of its own device: one of another might overflow.
    """
    generator, counts = torch.Generator(), [len(own) for own in samples]
    orders = torch.zeros(len(samples), epochs * max(counts), dtype=torch.int64)
    for row, size, seed in zip(orders.unbind(), counts, seeds, strict=True):
        generator.manual_seed(seed)
        for start in range(0, epochs * size, size):
            torch.randperm(size, generator=generator, out=row[start : start + size])
    return orders.add_((torch.tensor(counts).cumsum(0) - torch.tensor(counts))[:, None])
