"""A copy of a model, as `copy.deepcopy` makes it, in a tenth of its time for what is made of PyTorch's own layers.

A device needs a model for each message, and to copy a small one deeply takes longer than to train it.
"""

from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from fedquit.client.models.max_pool import MaxPool

SIMPLE = (bool, int, float, complex, str, bytes, type(None))


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of a model that shares no tensor with it.

    >>> import torch
    >>> line = nn.Sequential(nn.Linear(2, 2))
    >>> other = copied(line)
    >>> torch.equal(other[0].weight, line[0].weight), other[0].weight is line[0].weight
    (True, False)
    """
    if is_plain(model):
        return _copied(model, {})
    return deepcopy(model)


def is_plain(model: nn.Module) -> bool:
    """Say whether a model is made of PyTorch's own layers, and so holds nothing but what a state dict has, and modes.

    >>> is_plain(nn.Sequential(nn.Linear(2, 2)))
    True
    """
    return all(_is_plain(module) for module in model.modules())


def _is_plain(module: nn.Module) -> bool:
    """Say whether a layer is PyTorch's own, or like one, and holds nothing but tensors, layers and simple values."""
    if not (type(module).__module__.startswith("torch.nn.modules.") or type(module) is MaxPool):
        return False
    return all(_is_simple(value) or _is_table(name, value) for name, value in vars(module).items()) and all(
        value is None or (type(value) in (nn.Parameter, Tensor) and value.is_leaf and value.grad is None)
        for table in (module._parameters, module._buffers)
        for value in table.values()
    )


def _is_simple(value: Any) -> bool:
    return isinstance(value, SIMPLE) or (isinstance(value, tuple) and all(map(_is_simple, value)))


def _is_table(name: str, value: Any) -> bool:
    """Say whether an attribute is one of a module's own tables, and empty if it is of hooks."""
    if name in ("_parameters", "_buffers", "_modules"):
        return True
    return (
        name.startswith("_") and isinstance(value, dict | set) and (not value or name == "_non_persistent_buffers_set")
    )


def _copied(module: nn.Module, known: dict[int, Any]) -> nn.Module:
    """Copy a layer and those within; `known` has what is copied already: shared layers and tensors stay shared."""
    if id(module) in known:
        found: nn.Module = known[id(module)]
        return found
    new = known[id(module)] = module.__class__.__new__(module.__class__)
    for name, value in vars(module).items():
        new.__dict__[name] = value.copy() if isinstance(value, dict | set) else value
    for table in (new._parameters, new._buffers):
        for name, value in table.items():
            if value is not None:
                if id(value) not in known:
                    known[id(value)] = _copied_tensor(value)
                table[name] = known[id(value)]
    for name, child in new._modules.items():
        new._modules[name] = None if child is None else _copied(child, known)
    return new


def _copied_tensor(value: Tensor) -> Tensor:
    copy = value.detach().clone()
    return nn.Parameter(copy, value.requires_grad) if isinstance(value, nn.Parameter) else copy
