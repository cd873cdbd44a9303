"""A stand-in for an accelerator: tensors that say they are on another device, and that refuse to mix with this one's.

The tests run without a GPU. A `StandInTensor` computes on the processor and says that it is on `THERE`. As on a real
accelerator, an operation on tensors of both places raises, except where PyTorch allows it: copies from one to the
other, an index on the processor, and a number in a tensor without dimensions. Inside `stand_in_device()` what is made
with `device=THERE`, or moved `.to(THERE)`, is there.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

THERE = torch.device("meta")
MAY_MIX = ("aten::copy_", "aten::_to_copy", "aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_")


class StandInTensor(Tensor):
    """A tensor on the other device; `held` are its values."""

    held: Tensor
    operations: ClassVar[int] = 0
    """How many operations were carried out there."""
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls: "type[StandInTensor]", held: Tensor) -> "StandInTensor":
        """Return a tensor without memory of its own."""
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=THERE,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:  # type: ignore[override]
        return f"StandInTensor({self.held})"

    def tolist(self) -> Any:
        """Return the values, which an accelerator copies back."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Carry out an operation that one of these tensors takes part in."""
        del types
        return _carry_out(func, args, kwargs or {})


class _Places(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Carries out all operations, so that those that make tensors there do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        return _carry_out(func, args, kwargs or {})


@contextmanager
def stand_in_device() -> Iterator[torch.device]:
    """Have the other device be there; a module's parameters are replaced when it is moved."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Places(), warnings.catch_warnings():  # type: ignore[no-untyped-call]
            warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter.*")  # it is copied here
            yield THERE
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def _carry_out(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, StandInTensor)]
    here = [tensor for tensor in tensors if not isinstance(tensor, StandInTensor) and tensor.dim() > 0]
    if there and here and not func.name().startswith(MAY_MIX):
        raise RuntimeError(f"{func.name()} got tensors of both devices")
    arrives = bool(there)
    StandInTensor.operations += arrives
    if kwargs.get("device") is not None:
        arrives = torch.device(kwargs["device"]) == THERE
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif func.name() == "aten::index.Tensor":
        arrives = isinstance(args[0], StandInTensor)
    result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    known = {id(tensor.held): tensor for tensor in there}

    def back(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in known:  # an operation in place
            return known[id(value)]
        return StandInTensor(value) if arrives else value

    return tree_map(back, result)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, StandInTensor) else value
