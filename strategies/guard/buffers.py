"""Checks of what a model holds besides its parameters: running statistics, counters, tables.

No optimizer moves a buffer, so no bound on steps holds for it, and a single one can ruin a model: a negative
`running_var` gives NaN, one of 0 multiplies what passes through the layer by hundreds, an index out of its table's
range raises. Normalisation layers are known by the names that PyTorch gives their buffers (`running_mean`,
`running_var`, `num_batches_tracked`), whatever class they are of.

A layer's second moment, mean^2 + var, is the mean square of what enters it. It says on which scale the layer works, so
the bounds fit a first layer that sees pixels of 0..255 and a last one alike. It is the largest over the layer's
channels: a channel that is dead for the others may be alive on one device.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from fedquit.strategies.guard.finding import Finding

TIMES = 10.0
"""What enters a layer may be this many times as large, or as small, as it is for the current model."""
FIRST = 1e6
"""What enters a layer that has seen nothing yet may be this large: there is nothing to compare with."""
BATCHES = 10**6
"""A counter may grow by this much in one step."""
COUNT = 10**12
"""A counter may be this large where there is nothing to compare with."""
EPSILON = 1e-5
"""What normalisation layers add to a variance before they divide by its root: smaller ones are all alike."""


def check_buffers(
    new: Mapping[str, Any],
    current: Mapping[str, Any] | None,
    parameters: Collection[str],
    others: Sequence[Mapping[str, Any]] = (),
) -> tuple[Finding, ...]:
    """Return what is wrong with the buffers of a model; empty if nothing is.

    Args:
        new: the model, arrays or tensors by name; names, shapes and dtypes are those of the federation's model, all
            values are finite.
        current: the model that was sent. None: there is nothing to compare with, as in retraining from scratch;
            signs and the largest of all bounds are still checked.
        parameters: the entries that are parameters; all the others are buffers.
        others: what other devices sent in the same round: the scale of a layer is then that of their median, if that
            is larger. In a first round it is all that a reply can be compared with.

    >>> sent = {"bn.running_mean": torch.zeros(2), "bn.running_var": torch.ones(2), "bn.num_batches_tracked": [4]}
    >>> print(*check_buffers({**sent, "bn.running_var": torch.tensor([1.0, -50.0])}, sent, set()))
    'bn.running_var': its smallest entry -50 (at least 0)
    >>> print(*check_buffers({**sent, "bn.running_mean": torch.tensor([0.0, 99.0])}, sent, set()))
    'bn.running_mean': mean square of a channel 9.8e+03 (at most 100)
    """
    return tuple(f for f in _findings(new, current, frozenset(parameters), others) if not f.holds)


def _findings(
    new: Mapping[str, Any], current: Mapping[str, Any] | None, parameters: frozenset[str], others: Sequence[Any]
) -> Iterator[Finding]:
    layers = _layers(new, parameters)
    for layer in layers:
        yield from _running_statistics(layer, new, current, others)
    seen = {f"{layer}{part}" for layer in layers for part in ("running_mean", "running_var")}
    for name in new:
        if name not in parameters and name not in seen:
            yield from _other(name, torch.as_tensor(new[name]), None if current is None else current[name])


def _layers(state: Mapping[str, Any], parameters: frozenset[str]) -> list[str]:
    """Return the prefixes of layers with running statistics, such as "features.1."."""
    ends = [name.removesuffix("running_var") for name in state if name.rpartition(".")[2] == "running_var"]
    return [e for e in ends if f"{e}running_mean" in state and not {f"{e}running_var", f"{e}running_mean"} & parameters]


def _running_statistics(
    layer: str, new: Mapping[str, Any], current: Mapping[str, Any] | None, others: Sequence[Mapping[str, Any]]
) -> Iterator[Finding]:
    mean, var = (torch.as_tensor(new[f"{layer}{part}"]).double() for part in ("running_mean", "running_var"))
    if not var.numel():
        return
    yield Finding(f"'{layer}running_var': its smallest entry", float(var.min()), 0.0, at_least=True)
    if var.min() < 0:
        return
    scale = max([*_known(layer, current), *_middle([_second_moment(layer, other) for other in others])], default=None)
    most = FIRST**2 if scale is None else TIMES**2 * max(scale, EPSILON)
    part = "running_mean" if float((mean**2).max()) > float(var.max()) else "running_var"
    yield Finding(f"'{layer}{part}': mean square of a channel", _second_moment(layer, new), most)
    if current is not None and _known(layer, current):
        least = float(torch.as_tensor(current[f"{layer}running_var"]).double().mean()) / TIMES**2
        least = least if least > EPSILON else 0.0
        yield Finding(f"'{layer}running_var': mean over its channels", float(var.mean()), least, at_least=True)


def _known(layer: str, current: Mapping[str, Any] | None) -> list[float]:
    """Return the second moment of a layer that has seen batches, or of one that does not count them."""
    if current is None:
        return []
    count = current.get(f"{layer}num_batches_tracked")
    return [] if count is not None and not bool(torch.as_tensor(count).any()) else [_second_moment(layer, current)]


def _second_moment(layer: str, state: Mapping[str, Any]) -> float:
    mean, var = (torch.as_tensor(state[f"{layer}{part}"]).double() for part in ("running_mean", "running_var"))
    return float((mean**2 + var).max())


def _middle(numbers: Sequence[float]) -> list[float]:
    return [median(numbers)] if numbers else []


def _other(name: str, value: Tensor, current: Any) -> Iterator[Finding]:
    """Yield what holds for a counter (one integer), a table (integers) or whatever else a layer keeps."""
    if not value.numel() or value.dtype == torch.bool:
        return
    before = None if current is None else torch.as_tensor(current)
    if value.is_floating_point():
        most = FIRST if before is None else TIMES * max(1.0, float(before.abs().max()))
        yield Finding(f"'{name}': its largest entry", float(value.abs().max()), most)
    elif value.numel() == 1:
        yield Finding(f"'{name}': the count", float(value), 0.0, at_least=True)
        yield Finding(f"'{name}': the count", float(value), COUNT if before is None else float(before) + BATCHES)
    elif before is not None:
        yield Finding(f"'{name}': its smallest entry", float(value.min()), float(before.min()), at_least=True)
        yield Finding(f"'{name}': its largest entry", float(value.max()), float(before.max()))
