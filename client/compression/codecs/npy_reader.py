"""What came, array by array in numpy's file format, read only as what it must be."""

import io
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedquit.client.compression.codecs.codec import Slot, slot_of
from fedquit.errors import InputError

MOST_HEAD = 512
"""Bytes of a header that is remembered; longer ones are no ordinary array's."""
READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Parcel:
    """Arrays that a stranger sent, each taken once; `take` is what codecs ask for arrays.

    Args:
        given: name -> the bytes of a `.npy` file, or an array of one's own.

    >>> parcel = Parcel({"w": np.ones(2, np.float32)})
    >>> parcel.take("w", Slot("float32", (2,)))
    array([1., 1.], dtype=float32)
    >>> parcel.check_empty()
    """

    def __init__(self, given: Mapping[str, bytes | NDArray[Any]]) -> None:
        self._left = dict(given)

    def take(self, name: str, slot: Slot) -> NDArray[Any]:
        """Return the array `name`, which must be what `slot` says.

        Raises:
            InputError: it is missing, or is something else.
        """
        if name not in self._left:
            raise InputError(f"'{name}' is missing")
        value = self._left.pop(name)
        if isinstance(value, bytes):
            return read_npy(name, value, slot)
        _check(name, slot_of(value), slot)
        return value

    def check_empty(self) -> None:
        """Refuse what was not asked for.

        Raises:
            InputError: something is left.
        """
        if self._left:
            raise InputError(f"unexpected: {', '.join(sorted(self._left)[:3])}")


def read_npy(name: str, data: bytes, slot: Slot) -> NDArray[Any]:
    """Return what the bytes of a `.npy` file hold, without copying, if it is what `slot` says and not a byte more.

    Raises:
        InputError: it is not.

    >>> file = io.BytesIO()
    >>> np.save(file, np.arange(3))
    >>> read_npy("w", file.getvalue(), Slot("int64", (3,)))
    array([0, 1, 2])
    """
    head = data[: _head_size(data)]
    try:
        found, by_columns, dtype = (_read_head if len(head) <= MOST_HEAD else _read_head.__wrapped__)(head)
    except Exception as error:  # whatever a stranger's bytes bring about in the reader of a header
        raise InputError(f"'{name}' cannot be read: {type(error).__name__}") from None
    start = len(head)
    _check(name, found, slot)
    if len(data) - start != found.nbytes:
        raise InputError(f"'{name}' has {len(data) - start:,} bytes, not {found.nbytes:,}")
    return np.frombuffer(data, dtype, offset=start).reshape(found.shape or (), order="F" if by_columns else "C")


def _head_size(data: bytes) -> int:
    """Return the bytes of the header of a `.npy` file, as it says itself: magic, version, its length, and its text."""
    size = 4 if data[6:7] == b"\x02" else 2
    return 8 + size + int.from_bytes(data[8 : 8 + size], "little")


@lru_cache(maxsize=256)
def _read_head(head: bytes) -> tuple[Slot, bool, np.dtype[Any]]:
    """Return what a header says: dtype and shape, whether columns come first, and the dtype itself.

    The arrays of all devices' models have the same few headers, and to parse one takes longer than to copy the array.
    """
    file = io.BytesIO(head)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # headers of Python 2, which nobody here writes
        shape, by_columns, dtype = READERS[npy.read_magic(file)](file)
    return Slot(str(dtype), shape), by_columns, dtype


def _check(name: str, found: Slot, slot: Slot) -> None:
    """Refuse what is not what it must be."""
    shape = found.shape or ()
    fits = found.shape == slot.shape if slot.shape is not None else len(shape) == 1 and shape[0] >= 0
    if found.dtype != slot.dtype or not fits:
        wanted = "of any length" if slot.shape is None else slot.shape
        raise InputError(f"'{name}' is {found.dtype} {shape}, not {slot.dtype} {wanted}")
