"""The weighted mean of models, summed as they come, with the same bits in whatever order they come.

Floating-point addition is not associative, so a plain running sum depends on who answers first. Here every
weighted value is cut into parts on fixed grids (multiples of 2^22, 2^-14 and 2^-50). Sums of numbers on one grid
are exact in float64 while they stay below 2^53 grid steps, and exact sums do not depend on order (the idea of
Demmel and Nguyen, "Fast Reproducible Floating-Point Summation", ARITH 2013). There is room for 2^18 clients.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRIDS = (2.0**22, 2.0**-14, 2.0**-50)
SMALL = GRIDS[0] / 4  # values below it have no part on the widest grid
LIMIT = 2.0**57  # of one |value| * weight: 2^18 of them stay below 2^53 steps of the widest grid
BLOCK = 16_384  # values at a time: what is computed on the way stays in the processor's cache


def bounds_of(arrays: Mapping[str, NDArray[Any]], weight: int) -> dict[str, float]:
    """Return the largest of each array's weighted values.

    Raises:
        OverflowError: one is 2^57 or more, so that a sum would not be exact.

    >>> bounds_of({"w": np.array([-3.0, 2.0])}, 2)
    {'w': 6.0}
    """
    bounds = {name: _largest(array) * weight for name, array in arrays.items()}
    for name, bound in bounds.items():
        if not bound < LIMIT:
            raise OverflowError(f"'{name}' holds a value too large to average")
    return bounds


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some values of one array: `values[start:stop]`, from place `at` of their block."""

    name: str
    start: int
    stop: int
    at: int


class _Layout:
    """The values of all arrays, by name, in blocks: small arrays share a block, and so its operations.

    It is the same for arrays that come in another order, so that their sums can be merged.

    Args:
        arrays: of the form of all that are added.

    Attributes:
        forms: dtype and shape of each array.
        size: values of all arrays.
        blocks: the pieces of each block.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.forms = {name: (array.dtype, array.shape) for name, array in arrays.items()}
        self.blocks: list[list[_Piece]] = []
        self.size = 0
        for name, array in sorted(arrays.items()):
            start = 0
            while start < array.size:
                at = self.size % BLOCK
                if not at:
                    self.blocks.append([])
                stop = min(array.size, start + BLOCK - at)
                self.blocks[-1].append(_Piece(name, start, stop, at))
                self.size += stop - start
                start = stop

    def check(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Raise a ValueError if names or shapes are others."""
        for name in self.forms.keys() ^ arrays.keys():
            raise ValueError(f"'{name}' is not in all that is averaged")
        for name, (_, shape) in self.forms.items():
            if arrays[name].shape != shape:
                raise ValueError(f"'{name}' has the shape {arrays[name].shape}, and {shape} in what was added before")

    def taken_apart(self, values: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """Return values as arrays of their dtypes; integers (such as BatchNorm's counter) are rounded."""
        places, start = {}, 0
        for name, (_, shape) in sorted(self.forms.items()):
            places[name] = slice(start, start + math.prod(shape))
            start = places[name].stop
        found = {name: values[places[name]].reshape(shape) for name, (_, shape) in self.forms.items()}
        return {
            name: np.asarray(own if self.forms[name][0].kind == "f" else np.rint(own)).astype(self.forms[name][0])
            for name, own in found.items()
        }


class ExactMean:
    """A weighted mean of named arrays that any order of arrival leaves the same, bit for bit.

    Weights are positive integers (numbers of samples). Memory: two float64 arrays a parameter (three
    where values are large), however many are added. All that is added has the same names and shapes. It can be
    pickled, so that what one process has summed is merged in another.

    >>> mean = ExactMean()
    >>> mean.add({"w": np.array([1.0, 2.0], dtype=np.float32)}, 3)
    >>> mean.add({"w": np.array([5.0, 2.0], dtype=np.float32)}, 1)
    >>> mean.result()
    {'w': array([2., 2.], dtype=float32)}
    """

    def __init__(self) -> None:
        self.weight = 0
        self._only: dict[str, NDArray[Any]] | None = None
        self._layout: _Layout | None = None
        self._sums: dict[float, NDArray[np.float64]] = {}
        self._space: NDArray[np.float64] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what is to be pickled: not the space to compute in."""
        return {**vars(self), "_space": None}

    def add(self, arrays: Mapping[str, NDArray[Any]], weight: int) -> None:
        """Add `arrays` with `weight`; on an error nothing is added.

        Raises:
            OverflowError: a weighted value is 2^57 or more, or not finite, so that the sum would not be exact.
            ValueError: names or shapes are not those of what was added before.
        """
        grids = GRIDS if max(bounds_of(arrays, weight).values(), default=0.0) >= SMALL else GRIDS[1:]
        layout = self._layout or _Layout(arrays)
        layout.check(arrays)
        self._only = {name: array.copy() for name, array in arrays.items()} if self.weight == 0 else None
        self._layout = layout
        self.weight += weight
        self._add(arrays, weight, grids, layout)

    def add_sum(self, arrays: Mapping[str, NDArray[Any]], weight: int) -> None:
        """Add what is the sum of several models already, each times its weight; on an error nothing is added.

        Args:
            arrays: the sum.
            weight: the sum of the weights.

        Raises:
            OverflowError: as in `add`.
        """
        self.add(arrays, 1)
        self.weight += weight - 1
        self._only = None

    def merge(self, other: "ExactMean") -> None:
        """Add what another mean has summed; `other` must not be used afterwards."""
        if not other.weight:
            return
        self._only = other._only if self.weight == 0 else None
        self.weight += other.weight
        self._layout = self._layout or other._layout
        for grid, sums in other._sums.items():
            if grid in self._sums:
                self._sums[grid] += sums
            else:
                self._sums[grid] = sums

    def _add(self, arrays: Mapping[str, NDArray[Any]], weight: int, grids: tuple[float, ...], layout: _Layout) -> None:
        if self._space is None:
            self._space = np.empty((2, min(BLOCK, layout.size)))
        for grid in grids:
            if grid not in self._sums:
                self._sums[grid] = np.zeros(layout.size)
        flat = {name: array.reshape(-1) for name, array in arrays.items()}
        for number, pieces in enumerate(layout.blocks):
            begin, size = number * BLOCK, pieces[-1].at + pieces[-1].stop - pieces[-1].start
            rest, part = self._space[:, :size]
            for piece in pieces:
                to = rest[piece.at : piece.at + piece.stop - piece.start]
                np.multiply(flat[piece.name][piece.start : piece.stop], weight, out=to, dtype=np.float64)
            for grid in grids:  # adding 1.5 * 2^52 grid steps leaves no room for finer bits: ties go to even
                shift = 1.5 * 2.0**52 * grid
                np.add(rest, shift, out=part)
                part -= shift
                rest -= part
                self._sums[grid][begin : begin + size] += part

    def result(self) -> dict[str, NDArray[Any]]:
        """Return the mean in the dtypes that were added; integers (such as BatchNorm's counter) are rounded.

        The mean of one is that one, bit for bit.
        """
        if self._only is not None:
            return self._only
        if self._layout is None:
            return {}
        total = np.zeros(self._layout.size)
        for grid in GRIDS:
            if grid in self._sums:
                total += self._sums[grid]
        return self._layout.taken_apart(total / self.weight)


def _largest(array: NDArray[Any]) -> float:
    return max(abs(float(array.max())), abs(float(array.min()))) if array.size else 0.0
