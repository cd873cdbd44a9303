"""From NumPy arrays to checked tensors: what an input and a label may look like, whatever file they came from."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fedquit.errors import InputError

MAX_CLASSES = 100_000
FORMS = "[N, F], [N, H, W], [N, C, H, W] or [N, H, W, C] with C 1 or 3"


def as_inputs(values: ArrayLike, where: str) -> Tensor:
    """Return inputs as uint8 or float32 [N, C, H, W].

    Rows [N, F] become [N, 1, 1, F]; [N, H, W] gains a channel. In four dimensions the channels are axis 1 if that is
    1 or 3 long, else the last axis if that is.

    Args:
        values: uint8 (0..255) or finite floating-point values.
        where: File and key, to begin an error with.

    Raises:
        InputError: On any other type or shape, on nothing at all, and on NaN or infinity.

    >>> as_inputs(np.zeros((5, 32, 32, 3), np.uint8), "made.npz: x").shape
    torch.Size([5, 3, 32, 32])
    """
    array = _channels_first(as_array(values, where), where)
    if array.size == 0:
        raise InputError(f"{where} is empty (shape {array.shape})")
    if array.dtype == np.uint8:
        return _tensor(array)
    if array.dtype.kind != "f":
        raise InputError(f"{where} has type {array.dtype}; give uint8 (0..255) or floating-point values")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{where} holds NaN, infinity or values too large for float32")
    return _tensor(array)


def as_labels(values: ArrayLike, where: str) -> Tensor:
    """Return labels as int64 [N].

    Args:
        values: Class numbers from 0; not all numbers need be used.
        where: File and key, to begin an error with.

    Raises:
        InputError: If they are not one-dimensional whole numbers in 0..99999.

    >>> as_labels([0, 2, 1], "made.npz: y")
    tensor([0, 2, 1])
    """
    array = as_array(values, where)
    if array.ndim != 1:
        raise InputError(f"{where} has shape {array.shape}; labels are one number per sample")
    if len(array) == 0:
        raise InputError(f"{where} is empty")
    if array.dtype.kind not in "iu":
        raise InputError(f"{where} has type {array.dtype}; labels are whole numbers from 0")
    least, largest = int(array.min()), int(array.max())
    if least < 0 or largest >= MAX_CLASSES:
        wrong = least if least < 0 else largest
        raise InputError(f"{where} holds label {wrong}; labels are whole numbers from 0 to {MAX_CLASSES - 1}")
    return _tensor(array.astype(np.int64))


def as_array(values: ArrayLike, where: str) -> NDArray[np.generic]:
    """Return values of any kind as an array, of whatever shape and type.

    Args:
        values: an array, a tensor, a list.
        where: File and key, to begin an error with.

    Raises:
        InputError: If they are none, such as lists of unequal length.
    """
    try:
        return np.asarray(values)
    except Exception as error:
        raise InputError(f"{where} is not an array ({error})") from error


def _channels_first(array: NDArray[np.generic], where: str) -> NDArray[np.generic]:
    """Give an array of any accepted form the axes [N, C, H, W]."""
    if array.ndim == 2:
        return array[:, None, None, :]
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return array.transpose(0, 3, 1, 2)
    raise InputError(f"{where} has shape {array.shape}; inputs are {FORMS}")


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """Share the memory where it is contiguous and ours to write, else copy."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
