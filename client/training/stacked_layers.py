"""Gradients of many devices' models at once, for models that are a sequence of linear and elementwise layers.

Any model can be stacked with `torch.vmap`, which takes every operation apart and puts it together again. What layers of
one sequence do to stacked samples is known beforehand: elementwise ones do the same, and a linear one is one product of
matrices for each device, or a single one while all devices still have the same weights. PyTorch takes the loss back to
the outputs of linear layers; with their inputs these are the gradients of the weights, a product for each device.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.client.models.copy_model import is_plain

ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity)

Weights = Mapping[str, Tensor]
"""Name -> the devices' weights [k, ...]."""


@dataclass(frozen=True)
class Batches:
    """A batch of each of some devices, one after the other.

    Attributes:
        inputs: of all [N, ...].
        labels: of all [N].
        sizes: samples of each device's batch [k].
    """

    inputs: Tensor
    labels: Tensor
    sizes: Tensor

    @cached_property
    def device(self) -> Tensor:
        """Of each sample, which device's it is [N]."""
        return torch.arange(len(self.sizes)).repeat_interleave(self.sizes)

    @cached_property
    def shares(self) -> Tensor:
        """Of each sample, its weight in the loss of its device [N]."""
        return self.sizes.reciprocal()[self.device]

    def of_each(self, values: Tensor) -> Tensor:
        """Return the sums over each device's samples [k, ...] of values [N, ...]."""
        return values.new_zeros(len(self.sizes), *values.shape[1:]).index_add_(0, self.device, values)

    def padded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs [k, B, ...], labels and shares [k, B] as if all batches were as large as the largest.

        A shorter one is filled with its own last sample at share 0: a sample of another device might overflow.
        """
        sizes, places = self.sizes[:, None], torch.arange(int(self.sizes.max()))
        index = sizes.cumsum(0) - sizes + torch.minimum(places, sizes - 1)
        return self.inputs[index], self.labels[index], (places < sizes) / sizes


@dataclass(frozen=True, slots=True)
class Whole:
    """The gradient of devices' tensors [k, ...]."""

    gradient: Tensor

    def added(self, to: Tensor, into: Tensor, *, scale: float, factor: float) -> None:
        """Write `scale * to + factor * gradient` into a tensor, which may be `to`."""
        torch.add(to if scale == 1.0 else to * scale, self.gradient, alpha=factor, out=into)


@dataclass(frozen=True, slots=True)
class Product:
    """The same for matrices [k, n, m], as the product of `left` [k, n, B] and `right` [k, B, m].

    It is made where it is added, so that no memory is written and read for it alone.
    """

    left: Tensor
    right: Tensor

    def added(self, to: Tensor, into: Tensor, *, scale: float, factor: float) -> None:
        """See `Whole`."""
        torch.baddbmm(to, self.left, self.right, beta=scale, alpha=factor, out=into)


@dataclass(frozen=True, slots=True)
class Products:
    """The same with another B for each device: `left` [n, B] and `right` [B, m] of each."""

    left: Sequence[Tensor]
    right: Sequence[Tensor]

    def added(self, to: Tensor, into: Tensor, *, scale: float, factor: float) -> None:
        """See `Whole`."""
        for old, left, right, new in zip(to.unbind(), self.left, self.right, into.unbind(), strict=True):
            torch.addmm(old, left, right, beta=scale, alpha=factor, out=new)


Gradient = Whole | Product | Products
Gradients = Callable[[Weights, Batches], tuple[Tensor, Mapping[str, Gradient]]]
"""From the devices' weights and batches: the loss of each device [k], and the gradients of the trainable weights."""


def gradients_of_sequence(model: nn.Module, trainable: Collection[str]) -> Gradients | None:
    """Return a function that computes the gradients of `trainable` for a model of such layers; None: it has others.

    >>> gradients_of_sequence(nn.Linear(1, 2), ["weight", "bias"]) is None
    True
    """
    layers = list(_layers(model, "")) if isinstance(model, nn.Sequential) and is_plain(model) else []
    if not layers or not all(isinstance(layer, nn.Linear) or _is_elementwise(layer) for _, layer in layers):
        return None

    def gradients(weights: Weights, batches: Batches) -> tuple[Tensor, Mapping[str, Gradient]]:
        if all(not value.stride(0) for value in weights.values()):  # all devices have the same: nothing is padded
            inputs, labels, shares = batches.inputs, batches.labels, batches.shares
        else:
            inputs, labels, shares = batches.padded()
            inputs = inputs.flatten(0, 1)
        values, seen = inputs, list[tuple[str, Tensor, Tensor]]()
        for name, layer in layers:
            if isinstance(layer, nn.Linear):
                before, values = values, _linear(values, weights[f"{name}weight"], weights.get(f"{name}bias"))
                values.requires_grad_()
                seen.append((name, before.detach(), values))
            else:
                values = layer(values)
        losses = F.cross_entropy(values, labels.flatten(), reduction="none").view_as(shares) * shares
        slopes = torch.autograd.grad(losses.sum(), [after for *_, after in seen])
        found = dict[str, Gradient]()
        for (name, before, _), slope in zip(seen, slopes, strict=True):
            weight, bias = _linear_gradients(slope, before, batches, is_padded=shares.dim() > 1)
            found |= {f"{name}weight": weight, f"{name}bias": bias}
        means = losses.detach().sum(dim=1) if shares.dim() > 1 else batches.of_each(losses.detach())
        return means, {name: gradient for name, gradient in found.items() if name in trainable}

    return gradients


def _linear_gradients(slope: Tensor, before: Tensor, batches: Batches, *, is_padded: bool) -> tuple[Gradient, Whole]:
    """Return the gradients of a linear layer's weight and bias.

    Args:
        slope: the gradient of its outputs, [N, ..., n] or [k * B, ..., n].
        before: its inputs, of the same form.
        batches: of the devices.
        is_padded: whether all batches were made as large as the largest.
    """
    if is_padded:
        own = slope.reshape(len(batches.sizes), -1, slope.shape[-1])
        return Product(own.mT, before.reshape(len(batches.sizes), -1, before.shape[-1])), Whole(own.sum(dim=1))
    bias = batches.of_each(slope.flatten(1, -2).sum(1) if slope.dim() > 2 else slope)
    own, inputs = slope.flatten(0, -2), before.flatten(0, -2)
    rows = (batches.sizes * (own.shape[0] // slope.shape[0])).tolist()  # a sample of more dimensions has several
    return Products(torch.split(own.t(), rows, dim=1), torch.split(inputs, rows)), Whole(bias)


def _layers(model: nn.Sequential, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers in the order in which they are called, each with what its parameters' names begin with."""
    for name, layer in model._modules.items():
        if isinstance(layer, nn.Sequential):
            yield from _layers(layer, f"{prefix}{name}.")
        elif layer is not None:
            yield f"{prefix}{name}.", layer


def _is_elementwise(layer: nn.Module) -> bool:
    """Say whether a layer does to stacked samples what it does to those of one device."""
    if isinstance(layer, nn.Flatten):
        return layer.start_dim == 1
    return isinstance(layer, ELEMENTWISE) and not getattr(layer, "inplace", False)


def _linear(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return what a linear layer makes of the samples of all devices, [k * B, ..., in], with their weights."""
    if not weight.stride(0) and (bias is None or not bias.stride(0)):  # all devices have the same
        return F.linear(values, weight[0], None if bias is None else bias[0])
    own = values.reshape(len(weight), -1, values.shape[-1])
    made = own @ weight.mT if bias is None else torch.baddbmm(bias[:, None], own, weight.mT)
    return made.reshape(*values.shape[:-1], -1)
