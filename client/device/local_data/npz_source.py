"""Arrays in a `.npz` file, read a piece at a time: memory follows what is kept of it, not what it holds."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from fedquit.client.data.datasets.checked_arrays import as_inputs
from fedquit.client.data.datasets.npz import opened, read_array
from fedquit.client.device.local_data.item import Item
from fedquit.client.device.local_data.sample_content import Content
from fedquit.client.device.local_data.sample_digest import sample_digest
from fedquit.client.models.architectures import InputShape
from fedquit.errors import InputError

PIECE = 1 << 20
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Arrays:
    """Inputs `x` and labels `y` of a `.npz` file, row by row; nothing in it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with opened(path) as archive:
            for key in ("x", "y"):
                if key not in archive.files:
                    raise InputError(
                        f"{path}: no '{key}' (it holds {', '.join(archive.files) or 'nothing'}); give x, y"
                    )
            self._labels = read_array(archive, "y", path)
        if self._labels.ndim != 1 or self._labels.dtype.kind not in "iuU":
            raise InputError(
                f"{path}: y is {self._labels.dtype} {self._labels.shape}; labels are one number or name each"
            )

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[Item]:
        number = 0
        for piece in self._pieces():
            yield from rows(piece, self._labels[number : number + len(piece)], number, f"{self._path}: x")
            number += len(piece)
        if number != len(self):
            raise InputError(f"{self._path}: x holds {number} samples but y holds {len(self)} labels")

    def _pieces(self) -> Iterator[NDArray[Any]]:
        """Yield some rows of x at a time."""
        with _inner(self._path) as (file, size):
            version = npy.read_magic(file)
            if version not in HEADERS:
                raise InputError(f"{self._path}: x is of .npy version {version}; write it again with numpy.savez")
            shape, fortran, dtype = HEADERS[version](file)
            if dtype.hasobject or not shape:
                raise InputError(f"{self._path}: x is {dtype} {shape}, not one input per sample")
            step = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
            if size - file.tell() != shape[0] * step:
                raise InputError(f"{self._path}: x declares {shape} of {dtype} but holds {size - file.tell()} bytes")
            if fortran:
                raise InputError(f"{self._path}: x is in Fortran order; write it with numpy.ascontiguousarray(x)")
            at_once = max(1, PIECE // max(step, 1))
            for start in range(0, shape[0], at_once):
                count = min(at_once, shape[0] - start)
                yield np.frombuffer(file.read(count * step), dtype=dtype).reshape(count, *shape[1:])


@contextmanager
def _inner(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Yield x of the archive as an open file, and its size unpacked."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("x.npy") as file:
            yield file, archive.getinfo("x.npy").file_size
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot read 'x' ({error})") from error


def rows(inputs: NDArray[Any], labels: NDArray[Any], first: int, where: str) -> Iterator[Item]:
    """Yield samples from inputs [N, ...] and labels [N], whose numbers begin at `first`."""
    piece = _Piece(inputs, where)
    for number, (stored, label) in enumerate(zip(inputs, labels, strict=True)):
        text = str(label)
        yield Item(str(first + number), text, sample_digest(stored, text), partial(piece.open, number))


class _Piece:
    """Some rows, turned into checked tensors together once the first of them is wanted."""

    def __init__(self, inputs: NDArray[Any], where: str) -> None:
        self._inputs, self._where = inputs, where
        self._tensors: Tensor | None = None

    def open(self, number: int, shape: InputShape | None) -> tuple[Content, Tensor]:
        if self._tensors is None:
            self._tensors = as_inputs(self._inputs, self._where)
        values = shaped(self._tensors[number], shape, self._where)
        return Content(values, shaped=shape is not None), values


def shaped(values: Tensor, shape: InputShape | None, where: str) -> Tensor:
    """Return an input [C, H, W] of the model's shape; a row of as many values is read in C order.

    Raises:
        InputError: it is of another shape.
    """
    if shape is None or tuple(values.shape) == shape:
        return values
    if values.shape[:2] == (1, 1) and values.numel() == shape[0] * shape[1] * shape[2]:
        return values.view(shape)
    has, wants = ("x".join(map(str, each)) for each in (values.shape, shape))
    raise InputError(f"{where} holds inputs of {has}; the federation's model takes {wants}")
