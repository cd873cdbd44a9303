"""Probabilities and labels as the measures want them: checked, float64, on the CPU, from torch or from numpy."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fedquit.errors import InputError

Array = Tensor | NDArray[Any]
Pair = tuple[Array, Array]


def as_probabilities(what: str, given: Array) -> Tensor:
    """Return `given` as float64 [N, C], N >= 1, values in 0..1; `what` names it in the error.

    >>> as_probabilities("p", torch.tensor([[0.5, 0.5]]))
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    p = torch.as_tensor(given).detach().cpu().double()
    if p.ndim != 2 or not len(p):
        raise InputError(f"{what} have shape {list(p.shape)}; they must be [N, C] with N >= 1")
    if not bool(((p >= 0) & (p <= 1 + 1e-6)).all()):  # a float32 softmax may end an ulp above 1; NaN fails
        raise InputError(f"{what} lie outside 0..1 or are NaN; they must be probabilities")
    return p.clamp(max=1)


def as_pair(what: str, probabilities: Array, labels: Array) -> tuple[Tensor, Tensor]:
    """Return checked probabilities [N, C] and int64 labels [N].

    >>> as_pair("members", torch.tensor([[0.5, 0.5]]), torch.tensor([1]))[1]
    tensor([1])
    """
    p, y = as_probabilities(f"{what}: probabilities", probabilities), torch.as_tensor(labels).detach().cpu()
    if y.shape != p.shape[:1] or y.is_floating_point():
        raise InputError(f"{what}: labels are {y.dtype} {list(y.shape)}; they must be integers [{len(p)}]")
    if bool(((y < 0) | (y >= p.shape[1])).any()):
        raise InputError(f"{what}: labels reach {int(y.min())}..{int(y.max())}; valid: 0..{p.shape[1] - 1}")
    return p, y.long()


def of_true_class(values: Tensor, labels: Tensor) -> Tensor:
    """Return each row's value at its label, [N].

    >>> of_true_class(torch.tensor([[1.0, 2.0]]), torch.tensor([1]))
    tensor([2.])
    """
    return values.gather(1, labels[:, None]).squeeze(1)
