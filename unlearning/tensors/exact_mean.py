"""The weighted mean of models, summed as they come, with the same bits in whatever order they come.

Floating-point addition is not associative, so a plain running sum depends on who answers first. Here every
weighted value is cut into parts on fixed grids (multiples of 2^22, 2^-14 and 2^-50). Sums of numbers on one grid
are exact in float64 while they stay below 2^53 grid steps, and exact sums do not depend on order (the idea of
Demmel and Nguyen, "Fast Reproducible Floating-Point Summation", ARITH 2013). There is room for 2^18 clients.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRIDS = (2.0**22, 2.0**-14, 2.0**-50)
SMALL = GRIDS[0] / 4  # values below it have no part on the widest grid
LIMIT = 2.0**57  # of one |value| * weight: 2^18 of them stay below 2^53 steps of the widest grid
BLOCK = 65_536  # values at a time: what is computed on the way stays in the processor's cache

Sums = Mapping[str, dict[float, NDArray[np.float64]]]
"""Name -> grid -> the sums on it, flat; a grid without parts may be missing."""


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


class ExactMean:
    """A weighted mean of named arrays that any order of arrival leaves the same, bit for bit.

    Weights are positive integers (numbers of samples). Memory: two float64 arrays a parameter (three
    where values are large), however many are added.

    >>> mean = ExactMean()
    >>> mean.add({"w": np.array([1.0, 2.0], dtype=np.float32)}, 3)
    >>> mean.add({"w": np.array([5.0, 2.0], dtype=np.float32)}, 1)
    >>> mean.result()
    {'w': array([2., 2.], dtype=float32)}
    """

    def __init__(self) -> None:
        self.weight = 0
        self._only: dict[str, NDArray[Any]] | None = None
        self._sums: dict[str, dict[float, NDArray[np.float64]]] = {}
        self._forms: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self._space: NDArray[np.float64] | None = None

    def add(self, arrays: Mapping[str, NDArray[Any]], weight: int) -> None:
        """Add `arrays` with `weight`; on an error nothing is added.

        Raises:
            OverflowError: a weighted value is 2^57 or more, so that the sum would not be exact.
        """
        bounds = bounds_of(arrays, weight)
        self._only = dict(arrays) if self.weight == 0 else None
        self.weight += weight
        for name, array in arrays.items():
            self._forms[name] = array.dtype, array.shape
            self._add(name, array, weight, GRIDS if bounds[name] >= SMALL else GRIDS[1:])

    def merge(self, sums: Sums, weight: int, first: Mapping[str, NDArray[Any]], *, models: int) -> None:
        """Add what another mean has summed.

        Args:
            sums: its; they may be changed later.
            weight: its.
            first: the first model that was added to it.
            models: how many were.
        """
        self._only = dict(first) if self.weight == 0 and models == 1 else None
        self.weight += weight
        for name, array in first.items():
            self._forms[name] = array.dtype, array.shape
            mine = self._sums.setdefault(name, {})
            for grid, part in sums[name].items():
                mine[grid] = mine[grid] + part if grid in mine else part.copy()

    def sum_into(self, sums: Sums) -> None:
        """Have the sums be kept in these arrays, which are zero, before anything is added."""
        self._sums = dict(sums)

    def _add(self, name: str, array: NDArray[Any], weight: int, grids: tuple[float, ...]) -> None:
        values, sums = array.reshape(-1), self._sums.setdefault(name, {})
        for grid in grids:
            if grid not in sums:
                sums[grid] = np.zeros(values.size)
        if self._space is None or self._space.shape[1] < min(BLOCK, values.size):
            self._space = np.empty((2, min(BLOCK, values.size)))
        for start in range(0, values.size, BLOCK):
            block = values[start : start + BLOCK]
            rest, part = self._space[:, : block.size]
            np.multiply(block, weight, out=rest, dtype=np.float64)
            for grid in grids:  # adding 1.5 * 2^52 grid steps leaves no room for finer bits: ties go to even
                shift = 1.5 * 2.0**52 * grid
                np.add(rest, shift, out=part)
                part -= shift
                rest -= part
                sums[grid][start : start + BLOCK] += part

    def result(self) -> dict[str, NDArray[Any]]:
        """Return the mean in the dtypes that were added; integers (such as BatchNorm's counter) are rounded.

        The mean of one is that one, bit for bit.
        """
        if self._only is not None:
            return self._only
        means = {}
        for name, (dtype, shape) in self._forms.items():
            sums = self._sums[name]
            total = np.zeros_like(sums[GRIDS[-1]])
            for grid in GRIDS:
                total += sums.get(grid, 0.0)
            mean = (total / self.weight).reshape(shape)
            means[name] = (mean if dtype.kind == "f" else np.rint(mean)).astype(dtype)
        return means


def _largest(array: NDArray[Any]) -> float:
    return max(abs(float(array.max())), abs(float(array.min()))) if array.size else 0.0
