"""State dicts as vectors: their difference, norm and weighted mean.

An *update* holds the parameters alone: what a method scales, negates or projects. Buffers, such as batch
normalisation's running variance, mean nothing with the sign turned, so a move leaves them as they are.
"""

import math
from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fedquit.errors import FedquitError
from fedquit.unlearning.tensors.convert import Arrays, StateDict, tensors_of
from fedquit.unlearning.tensors.exact_mean import ExactMean


def parameter_names(model: nn.Module) -> frozenset[str]:
    """Return the state dict's names that are parameters, not buffers; a shared parameter goes by all its names.

    >>> sorted(parameter_names(nn.BatchNorm1d(2)))
    ['bias', 'weight']
    """
    return frozenset(name for name, _ in model.named_parameters(remove_duplicate=False))


def difference(new: StateDict, old: StateDict, names: Collection[str]) -> dict[str, Tensor]:
    """Return `new - old` for `names`, in float64 and in the order of `new`.

    >>> import torch
    >>> difference({"w": torch.tensor([3.0])}, {"w": torch.tensor([1.0])}, {"w"})
    {'w': tensor([2.], dtype=torch.float64)}
    """
    return {name: new[name].double() - old[name].double() for name in new if name in names}


def update_of(new: StateDict, old: StateDict) -> dict[str, Tensor]:
    """Return `new - old` of every entry, buffers too, in the dtypes of `old`: the update of a client's round.

    >>> import torch
    >>> update_of({"w": torch.tensor([3.0])}, {"w": torch.tensor([1.0])})
    {'w': tensor([2.])}
    """
    return {name: (new[name].double() - value.double()).to(value.dtype) for name, value in old.items()}


def check_usable(state: object, like: StateDict) -> None:
    """Refuse what is no model of the same names, shapes and dtypes as `like`, or holds NaN or infinity.

    Raises:
        FedquitError: saying what is wrong with it.

    >>> import torch
    >>> check_usable({"w": torch.tensor([float("nan")])}, {"w": torch.tensor([1.0])})
    Traceback (most recent call last):
    fedquit.errors.FedquitError: no usable model: 'w' holds NaN or infinity
    """
    if not isinstance(state, Mapping) or set(state) != set(like):
        raise FedquitError("no usable model: its entries are not those of the global model")
    for name, wanted in like.items():
        value = state[name]
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (wanted.shape, wanted.dtype):
            raise FedquitError(f"no usable model: '{name}' is not {wanted.dtype} {list(wanted.shape)}")
        if not bool(value.isfinite().all()):
            raise FedquitError(f"no usable model: '{name}' holds NaN or infinity")


def moved(state: StateDict, update: StateDict, scale: float = 1.0) -> dict[str, Tensor]:
    """Return `state + scale * update` in the dtypes of `state`; what `update` does not name stays.

    >>> import torch
    >>> moved({"w": torch.tensor([1.0]), "b": torch.tensor([5.0])}, {"w": torch.tensor([2.0])}, -0.5)
    {'w': tensor([0.]), 'b': tensor([5.])}
    """
    return {
        name: (value.double() + scale * update[name].double()).to(value.dtype) if name in update else value
        for name, value in state.items()
    }


def norm(update: StateDict) -> float:
    """Return the Euclidean norm over all entries together.

    >>> import torch
    >>> norm({"w": torch.tensor([3.0]), "b": torch.tensor([4.0])})
    5.0
    """
    return math.sqrt(math.fsum(float(value.double().square().sum()) for value in update.values()))


class StepLength:
    """The lengths of several models' steps from one: the norm of the difference, in memory that is used again.

    >>> import torch
    >>> before, after = {"w": torch.tensor([1.0]), "b": torch.tensor([2.0])}, {"w": np.ones(1) * 4, "b": np.ones(1) * 6}
    >>> StepLength(before, {"w", "b"}).of(after)
    5.0
    """

    def __init__(self, old: StateDict, names: Collection[str]) -> None:
        self._old = {name: value.double() for name, value in old.items() if name in names}
        self._space = {name: torch.empty_like(value) for name, value in self._old.items()}

    def of(self, new: Arrays) -> float:
        """Return how far the entries of `new` are from those of the model before it: the `norm` of a `difference`."""
        squares = []
        for name, old in self._old.items():
            space = torch.sub(torch.as_tensor(new[name]), old, out=self._space[name])
            squares.append(float(space.square_().sum()))
        return math.sqrt(math.fsum(squares))


class StateMean:
    """The weighted mean of state dicts, with the same bits in whatever order they come: see `exact_mean.ExactMean`.

    >>> import torch
    >>> mean = StateMean()
    >>> mean.add({"w": torch.tensor([1.0])}, 3)
    >>> mean.add({"w": torch.tensor([5.0])}, 1)
    >>> mean.result()
    {'w': tensor([2.])}
    """

    def __init__(self) -> None:
        self._mean = ExactMean()
        self._names: Collection[str] | None = None

    def add(self, state: StateDict, weight: int) -> None:
        """Add `state` with a weight of at least 1; on an error nothing is added.

        Raises:
            FedquitError: a weight below 1, other names than before, or a value that is not finite or too large.
        """
        if weight < 1:
            raise FedquitError(f"a weight is {weight}; it must be at least 1")
        if self._names is not None and state.keys() != self._names:
            raise FedquitError("two models do not have the same entries: they cannot be averaged")
        try:
            self._mean.add({name: value.detach().cpu().numpy() for name, value in state.items()}, weight)
        except OverflowError as error:
            raise FedquitError(str(error)) from None
        self._names = state.keys()

    def result(self) -> dict[str, Tensor]:
        """Return the mean in the dtypes of what was added.

        Raises:
            FedquitError: nothing was added.
        """
        if self._names is None:
            raise FedquitError("there is nothing to average: no client answered")
        return tensors_of({name: np.asarray(array) for name, array in self._mean.result().items()})
