"""The first learnable layer of a model: where its input meets a weight for the first time.

The order in which a model names its parameters says nothing: a vision transformer names its class token first. So the
model is asked about some inputs, and the graph that autograd records of that is read from the inputs on. A convolution
or matrix product of the input, or of what came of it without any weight, and a parameter is a first layer.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from fedquit.errors import InputError
from fedquit.unlearning.tensors.inference import mode

PRODUCTS = re.compile("conv|mm|mv|linear|rnn|lstm|gru")
"""What convolutions and matrix products are called in autograd's graph, such as AddmmBackward0."""


def first_weights(model: nn.Module, inputs: Tensor) -> list[nn.Parameter]:
    """Return the weights that act on the input first: one, or one for each layer that gets the input.

    Args:
        model: it is asked in inference mode, and left as it is.
        inputs: floating-point, [B, ...]; what they are does not matter.

    Raises:
        InputError: no parameter that learns acts on the input, or a weight is computed from several.

    >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3), nn.Linear(3, 3))
    >>> [weight is model[1].weight for weight in first_weights(model, torch.ones(2, 2))]
    [True]
    """
    inputs = inputs.detach().clone().requires_grad_()
    with mode(model, training=False), torch.enable_grad():
        root = model(inputs).grad_fn
    found = [] if root is None else _meetings(root, inputs)
    if not found:
        raise InputError("no parameter that learns acts on the model's input")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for weights in found:
        if len(weights) > 1:
            made_of = ", ".join(sorted(names.get(id(weight), "?") for weight in weights))
            raise InputError(f"the model's first layer has no weight of its own: it is made of {made_of}")
    return list({id(weights[0]): weights[0] for weights in found}.values())


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known of a node: does the input get there, and without a weight; which parameters do, if it does not."""

    reached: bool = False
    untouched: bool = False
    parameters: tuple[nn.Parameter, ...] = ()


def _meetings(root: Node, inputs: Tensor) -> list[tuple[nn.Parameter, ...]]:
    """Return the weights of each product of the untouched input and a weight."""
    seen, found = dict[Node, _Seen](), list[tuple[nn.Parameter, ...]]()
    for node in _inputs_first(root):
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            is_input = leaf is inputs
            seen[node] = _Seen(is_input, is_input, () if is_input else (leaf,))
            continue
        before = [seen[child] for child, _ in node.next_functions if child is not None]
        beside = {id(each): each for other in before if not other.reached for each in other.parameters}
        if not any(other.reached for other in before):
            seen[node] = _Seen(parameters=tuple(beside.values()))
            continue
        untouched = all(other.untouched for other in before if other.reached)
        weights = tuple(each for each in beside.values() if each.ndim >= 2)
        if untouched and weights and PRODUCTS.search(node.name().lower()):
            found.append(weights)
            untouched = False
        seen[node] = _Seen(reached=True, untouched=untouched)
    return found


def _inputs_first(root: Node) -> list[Node]:
    """Return the nodes of a graph, each after those that it depends on."""
    order, done, waiting = list[Node](), set[Node](), [(root, False)]
    while waiting:
        node, ready = waiting.pop()
        if ready:
            order.append(node)
        elif node not in done:
            done.add(node)
            waiting.append((node, True))
            waiting += [(child, False) for child, _ in node.next_functions if child is not None]
    return order


def names_of(model: nn.Module, parameters: Collection[nn.Parameter]) -> frozenset[str]:
    """Return the state dict's names of parameters; a shared one goes by all its names.

    >>> sorted(names_of(nn.Sequential(layer := nn.Linear(1, 1), layer), [layer.weight]))
    ['0.weight', '1.weight']
    """
    wanted = {id(parameter) for parameter in parameters}
    every = model.named_parameters(remove_duplicate=False)
    return frozenset(name for name, parameter in every if id(parameter) in wanted)
