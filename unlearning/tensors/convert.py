"""The two forms of a model in memory, and the way from one to the other.

Methods and objectives compute on tensors, messages and files hold arrays. Flower's own form has its one home in
`fedquit.strategies.grid.array_record`.
"""

import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor, nn

StateDict = Mapping[str, Tensor]
"""A model as PyTorch has it: name -> tensor, in the order of its layers."""
Arrays = Mapping[str, NDArray[Any]]
"""A model as numpy has it: the same names, shapes and dtypes."""
Shape = tuple[int, ...]
"""The sizes of a tensor or an array along its dimensions."""


def tensors_of(arrays: Arrays) -> dict[str, Tensor]:
    """Return copies of `arrays` as tensors, so that a change of one is none of the other.

    >>> tensors_of({"w": np.array([1.0])})
    {'w': tensor([1.], dtype=torch.float64)}
    """
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def arrays_of(state: StateDict) -> dict[str, NDArray[Any]]:
    """Return the tensors of `state` as arrays, which share the memory of those that are on the CPU.

    >>> arrays_of({"w": torch.tensor([1.0])})
    {'w': array([1.], dtype=float32)}
    """
    return {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}


def load_arrays(model: nn.Module, arrays: Arrays) -> nn.Module:
    """Fill `model` with `arrays` and return it."""
    model.load_state_dict(tensors_of(arrays))
    return model


@lru_cache(maxsize=256)
def npy_head(dtype: np.dtype[Any], shape: Shape) -> bytes:
    """Return the header of the `.npy` file of an array in C order, which is how messages hold it.

    >>> len(npy_head(np.dtype(np.float32), (2, 3)))
    128
    """
    file = io.BytesIO()
    said = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, said)
    return file.getvalue()
