"""Local training of many devices at once: their models stacked, so that one operation does a step of all of them.

A small model's step takes less time than the calls of Python and PyTorch that carry it out. Stacked, these calls are
made once for all devices. Every device still has its own samples, shuffle and number of steps: once their weights
differ, shorter batches are padded with samples of weight 0, and a device that has finished takes no further step.

The arithmetic is that of `fedquit.client.training.sgd.fit`, but products of stacked matrices may be summed in another
order, so the models agree up to rounding and not bit for bit.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fedquit.client.training.stacked_layers import Batches, Gradient, Gradients, Weights, Whole, gradients_of_sequence
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
        index: of each step, into these [N]: the batches of those who take it, one after the other.
        sizes: of each step, the samples of each batch [k].
        last: of each device, the step at which its last epoch begins.
    """

    inputs: Tensor
    labels: Tensor
    index: list[Tensor]
    sizes: list[Tensor]
    last: Tensor


class Rows:
    """Where each of some tensors is in a row of numbers, so that one operation does what all of them need.

    Args:
        tensors: one device's, all of the same type.

    Attributes:
        shapes: theirs, in the order in which they are in a row.

    >>> Rows({"w": torch.zeros(2, 3), "b": torch.zeros(2)}).taken_apart(torch.zeros(4, 8))["w"].shape
    torch.Size([4, 2, 3])
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.shapes = {name: value.shape for name, value in tensors.items()}
        self._sizes = [value.numel() for value in tensors.values()]

    def joined(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the tensors of one device as a row."""
        return torch.cat([tensors[name].reshape(-1) for name in self.shapes])

    def taken_apart(self, rows: Tensor) -> dict[str, Tensor]:
        """Return views of the tensors in `rows` [k, P]: name -> [k, ...]."""
        parts = torch.split(rows, self._sizes, dim=1)
        return {
            name: part.view(len(rows), *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


@dataclass(frozen=True, slots=True)
class Stack:
    """Devices after their training, a row each.

    Attributes:
        places: of each row, which of the devices given it is.
        rows: their trainable weights, one after the other [k, P].
        form: where each of them is in a row.
        start: those that all devices started from [P].
        weights: name -> all their weights [k, ...]; of what was trained a view of `rows`.
        counts: of each row, how many samples it has.
        losses: of each row, the mean loss of its last epoch, nats.
    """

    places: list[int]
    rows: Tensor
    form: Rows
    start: Tensor
    weights: dict[str, Tensor]
    counts: list[int]
    losses: list[float]

    def lengths(self) -> Iterator[float]:
        """Yield the length of each device's step, over all trainable weights."""
        space = torch.empty_like(self.start)  # of one device, so that it stays in the processor's cache
        for row in self.rows.unbind():
            torch.sub(row, self.start, out=space)
            yield math.sqrt(torch.dot(space, space))

    def largest(self, lengths: Sequence[float] | None) -> float:
        """Return a bound on the size of all trainable weights; with the `lengths` of the steps, without a look at each.

        What is not finite is not found if a weight is NaN; a sum of the weights is NaN then.
        """
        if lengths is None:
            return float(self.rows.abs().max())
        return float(self.start.abs().max()) + max(lengths)

    def sums(self, factors: Sequence[float]) -> dict[str, Tensor]:
        """Return the sum of all weights, each device's times its factor."""
        sums = self.form.taken_apart((torch.tensor(factors, dtype=torch.float32) @ self.rows)[None])
        return {
            name: sums[name][0] if name in sums else value[0] * sum(factors) for name, value in self.weights.items()
        }


def fit_stacked(
    model: nn.Module, samples: Sequence[Samples], seeds: Sequence[int], **how: Any
) -> list[tuple[StateDict, float]]:
    """Train a copy of `model` on the samples of each device; return its weights and the mean loss of its last epoch.

    See `Stacking.fit` for the arguments and errors.

    >>> line = Samples(torch.linspace(-1, 1, 64)[:, None], (torch.linspace(-1, 1, 64) > 0).long())
    >>> found = fit_stacked(nn.Linear(1, 2), [line, line.subset(torch.arange(9))], [3, 4], lr=0.5)
    >>> [sorted(state) for state, loss in found]
    [['bias', 'weight'], ['bias', 'weight']]
    """
    stack = Stacking(model).fit(model.state_dict(), samples, seeds, **how)
    found = {
        place: ({name: value[row] for name, value in stack.weights.items()}, stack.losses[row])
        for row, place in enumerate(stack.places)
    }
    return [found[place] for place in range(len(samples))]


class Stacking:
    """Trains devices at once that have copies of one model.

    Args:
        model: of their kind; its weights are neither used nor changed.
    """

    def __init__(self, model: nn.Module) -> None:
        model.train()
        self._names = [name for name, _ in model.named_parameters()]
        trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._rows = Rows(trainable)
        self._gradients = gradients_of_sequence(model, trainable) or gradients_of_any(model, trainable)

    def fit(
        self,
        state: StateDict,
        samples: Sequence[Samples],
        seeds: Sequence[int],
        *,
        lr: float,
        epochs: int = 1,
        batch_size: int = 32,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> Stack:
        """Train a copy of the model on the samples of each device.

        All devices take their first step from the same weights, which are not copied for it.

        Args:
            state: the weights where all start.
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
        counts = [len(own) for own in samples]
        order, steps = _steps(samples, counts, seeds, epochs, batch_size)
        start, frozen = self._rows.joined(state), {n: state[n] for n in self._names if n not in self._rows.shapes}
        before = start.expand(len(samples), -1)
        rows = torch.empty(before.shape)
        rows[len(steps.sizes[0]) if steps.sizes else 0 :] = start  # of those who have no samples
        velocity = torch.zeros(before.shape) if momentum else before
        total = torch.zeros(len(samples), dtype=torch.float64)
        for step, (index, sizes) in enumerate(zip(steps.index, steps.sizes, strict=True)):
            k, batches = len(sizes), Batches(normalised(steps.inputs[index]), steps.labels[index], sizes)
            values, gradients = self._gradients(self._weights(before[:k], frozen), batches)
            total[:k] += values * sizes * (step >= steps.last[:k])
            if momentum:
                self._add(gradients, velocity[:k], velocity[:k], scale=momentum, factor=1.0)
                if weight_decay:
                    velocity[:k].add_(before[:k], alpha=weight_decay)
                torch.add(before[:k], velocity[:k], alpha=-lr, out=rows[:k])
            else:
                self._add(gradients, before[:k], rows[:k], scale=1.0 - lr * weight_decay, factor=-lr)
            before = rows
        ordered = [counts[place] for place in order]
        losses = (total / torch.tensor(ordered)).tolist()
        return Stack(order, rows, self._rows, start, self._weights(rows, frozen), ordered, losses)

    def _weights(self, rows: Tensor, frozen: StateDict) -> dict[str, Tensor]:
        """Return all weights of devices: name -> [k, ...], views."""
        weights = self._rows.taken_apart(rows)
        weights |= {name: value.expand(len(rows), *value.shape) for name, value in frozen.items()}
        return {name: weights[name] for name in self._names}

    def _add(self, gradients: Mapping[str, Gradient], to: Tensor, into: Tensor, *, scale: float, factor: float) -> None:
        """Write `scale * to + factor * gradients` into rows, which may be `to`."""
        old, new = self._rows.taken_apart(to), self._rows.taken_apart(into)
        for name, gradient in gradients.items():
            gradient.added(old[name], new[name], scale=scale, factor=factor)


def gradients_of_any(model: nn.Module, trainable: Collection[str]) -> Gradients:
    """Return a function that computes the gradients of the trainable parameters, whatever layers the model has."""

    def losses(weights: Weights, inputs: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = functional_call(model, dict(weights), (inputs,))
        return F.cross_entropy(logits, labels, reduction="none")

    def gradients(weights: Weights, batches: Batches) -> tuple[Tensor, Mapping[str, Gradient]]:
        inputs, labels, shares = batches.padded()
        now = {name: value.detach().requires_grad_(name in trainable) for name, value in weights.items()}
        means = (torch.vmap(losses)(now, inputs, labels) * shares).sum(dim=1)
        found = torch.autograd.grad(means.sum(), [now[name] for name in trainable])
        return means.detach(), {name: Whole(gradient) for name, gradient in zip(trainable, found, strict=True)}

    return gradients


def _steps(
    samples: Sequence[Samples], counts: list[int], seeds: Sequence[int], epochs: int, batch_size: int
) -> tuple[list[int], _Steps]:
    """Return the devices by their number of steps, most first, and their steps."""
    each = [batch_sizes(count, batch_size) * epochs for count in counts]
    order = sorted(range(len(samples)), key=lambda place: -len(each[place]))
    sizes = np.zeros((len(samples), len(each[order[0]])), dtype=np.int64)
    for row, place in enumerate(order):
        sizes[row, : len(each[place])] = each[place]
    held = np.array(counts)
    drawn = held * epochs
    starts = (drawn.cumsum() - drawn)[order, None] + sizes.cumsum(1) - sizes
    shuffled = _shuffled(counts, seeds, epochs) + (held.cumsum() - held).repeat(drawn)
    index, in_batch = list[Tensor](), list[Tensor]()
    for step, k in enumerate((sizes > 0).sum(0).tolist()):
        own = sizes[:k, step]
        places = (starts[:k, step] - own.cumsum() + own).repeat(own)
        index.append(torch.from_numpy(shuffled[places + np.arange(len(places))]))
        in_batch.append(torch.from_numpy(own))
    inputs, labels = torch.cat([own.inputs for own in samples]), torch.cat([own.labels for own in samples])
    last = torch.tensor([len(each[place]) // epochs * (epochs - 1) for place in order])
    return order, _Steps(inputs, labels, index, in_batch, last)


def _shuffled(counts: list[int], seeds: Sequence[int], epochs: int) -> NDArray[np.int64]:
    """Return the places of each device's samples, in the order of its epochs, one device after the other."""
    generator, orders = torch.Generator(), list[Tensor]()
    for count, seed in zip(counts, seeds, strict=True):
        generator.manual_seed(seed)
        orders += [torch.randperm(count, generator=generator) for _ in range(epochs)]
    return torch.cat(orders).numpy()
