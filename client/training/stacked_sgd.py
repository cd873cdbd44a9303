"""Local training of many devices at once: their models stacked, so that one operation does a step of all of them.

A small model's step takes less time than the calls of Python and PyTorch that carry it out. Stacked, these calls are
made once for all devices. Every device still has its own samples, shuffle and number of steps: shorter batches are
padded with samples of weight 0, and a device that has finished takes part in no further step.

The arithmetic is that of `fedquit.client.training.sgd.fit`, but products of stacked matrices may be summed in another
order, so the models agree up to rounding and not bit for bit.
"""

from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class Stack:
    """Devices after their training, a row each.

    Attributes:
        places: of each row, which of the devices given it is.
        weights: name -> their weights [k, ...].
        losses: of each row, the mean loss of its last epoch, nats.
    """

    places: list[int]
    weights: dict[str, Tensor]
    losses: list[float]


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
    stacked = {name: value.detach().expand(len(samples), *value.shape) for name, value in model.named_parameters()}
    trainable = [name for name, value in model.named_parameters() if value.requires_grad]
    velocity: dict[str, Tensor] = {}
    gradients = gradients_of_sequence(model, trainable) or gradients_of_any(model, trainable)
    total = torch.zeros(len(samples), dtype=torch.float64)
    for step, index in enumerate(steps.index):
        k = len(index)
        now = {name: value[:k] for name, value in stacked.items()}
        inputs, labels = normalised(steps.inputs[index]), steps.labels[index]
        values, found = gradients(now, inputs, labels, steps.weights[step])
        unshared = len({gradient.data_ptr() for gradient in found.values()}) == len(found)
        with torch.no_grad():
            total[:k] += values * steps.sizes[step] * (step >= steps.last[:k])
            for name, gradient in found.items():
                direction = _direction(stacked[name][:k], gradient, name, velocity, momentum, weight_decay)
                if step:
                    stacked[name][:k].add_(direction, alpha=-lr)
                else:  # into memory that is there: new pages take longer than the sum
                    space = direction if unshared and direction is gradient and gradient.is_contiguous() else None
                    stacked[name] = torch.add(stacked[name], direction, alpha=-lr, out=space)
    means = total / torch.tensor([len(samples[place]) for place in order])
    return Stack(order, {name: value.contiguous() for name, value in stacked.items()}, means.tolist())


def gradients_of_any(model: nn.Module, trainable: Sequence[str]) -> Gradients:
    """Return a function that computes the gradients of the trainable parameters, whatever layers the model has."""

    def losses(weights: Weights, inputs: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = functional_call(model, dict(weights), (inputs,))
        return F.cross_entropy(logits, labels, reduction="none")

    def gradients(weights: Weights, inputs: Tensor, labels: Tensor, shares: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        now = {name: value.detach().requires_grad_(name in trainable) for name, value in weights.items()}
        means = (torch.vmap(losses)(now, inputs, labels) * shares).sum(dim=1)
        found = torch.autograd.grad(means.sum(), [now[name] for name in trainable])
        return means.detach(), dict(zip(trainable, found, strict=True))

    return gradients


def _direction(
    values: Tensor, gradient: Tensor, name: str, velocity: dict[str, Tensor], momentum: float, weight_decay: float
) -> Tensor:
    """Return what a step of SGD goes against, as `torch.optim.SGD` does."""
    if weight_decay:
        gradient = gradient.add(values, alpha=weight_decay)
    if momentum:
        if name not in velocity:
            velocity[name] = gradient.clone()
        else:
            velocity[name][: len(values)].mul_(momentum).add_(gradient)
        gradient = velocity[name][: len(values)]
    return gradient


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
