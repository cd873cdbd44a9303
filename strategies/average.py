"""The weighted mean of models, summed as they come, with the same bits in whatever order they come.

Floating-point addition is not associative, so a plain running sum depends on who answers first. Here every
weighted value is cut into two parts on fixed grids (multiples of 2^-14 and of 2^-50). Sums of numbers on one
grid are exact in float64 while they stay below 2^53 grid steps, and exact sums do not depend on order
(the idea of Demmel and Nguyen, "Fast Reproducible Floating-Point Summation", ARITH 2013). The finer grid
leaves room for 2^18 clients.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

COARSE = 2.0**-14
FINE = 2.0**-50
LIMIT = COARSE * 2.0**53  # what the sum of |value| * weight must stay below to be exact


def _round_to(values: NDArray[np.float64], grid: float) -> NDArray[np.float64]:
    """Round to multiples of `grid`, ties to even: adding 1.5 * 2^52 grid steps leaves no room for finer bits."""
    shift = 1.5 * 2.0**52 * grid
    rounded: NDArray[np.float64] = values + shift
    rounded -= shift
    return rounded


class ExactMean:
    """A weighted mean of named arrays that any order of arrival leaves the same, bit for bit.

    Weights are positive integers (numbers of samples). Memory: two float64 arrays a parameter, however many are added.

    >>> mean = ExactMean()
    >>> mean.add({"w": np.array([1.0, 2.0], dtype=np.float32)}, 3)
    >>> mean.add({"w": np.array([5.0, 2.0], dtype=np.float32)}, 1)
    >>> mean.result()
    {'w': array([2., 2.], dtype=float32)}
    """

    def __init__(self) -> None:
        self.weight = 0
        self._only: dict[str, NDArray[Any]] | None = None
        self._sums: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        self._bounds: dict[str, float] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}

    def add(self, arrays: Mapping[str, NDArray[Any]], weight: int) -> None:
        """Add `arrays` with `weight`; on an error nothing is added.

        Raises:
            OverflowError: the weighted values add up to 2^39 or more, so that the sum would not be exact.
        """
        bounds = {name: self._bounds.get(name, 0.0) + _largest(array) * weight for name, array in arrays.items()}
        for name, bound in bounds.items():
            if not bound < LIMIT:
                raise OverflowError(f"'{name}' holds a value too large to average")
        self._only = dict(arrays) if self.weight == 0 else None
        self._bounds = bounds
        self.weight += weight
        for name, array in arrays.items():
            self._add(name, array, weight)

    def _add(self, name: str, array: NDArray[Any], weight: int) -> None:
        rest = np.multiply(array, weight, dtype=np.float64)
        coarse = _round_to(rest, COARSE)
        rest -= coarse
        fine = _round_to(rest, FINE)
        if name in self._sums:
            self._sums[name][0][...] += coarse
            self._sums[name][1][...] += fine
        else:
            self._sums[name] = (coarse, fine)
            self._dtypes[name] = array.dtype

    def result(self) -> dict[str, NDArray[Any]]:
        """Return the mean in the dtypes that were added; integers (such as BatchNorm's counter) are rounded.

        The mean of one is that one, bit for bit.
        """
        if self._only is not None:
            return self._only
        means = {}
        for name, (coarse, fine) in self._sums.items():
            mean = (coarse + fine) / self.weight
            dtype = self._dtypes[name]
            means[name] = (mean if dtype.kind == "f" else np.rint(mean)).astype(dtype)
        return means


def _largest(array: NDArray[Any]) -> float:
    return float(np.abs(array).max()) if array.size else 0.0
