"""The exact sums of one worker in a round, in a file that the main process reads once the round is over.

So a worker sends no model, and its sums are not copied. The file is written before anything is summed in it: a disk
without room is an error then, and not later.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedquit.unlearning.tensors.convert import Arrays
from fedquit.unlearning.tensors.exact_mean import GRIDS, ExactMean, Sums

WORD = 8


class SharedSums:
    """Sums of models of one form: a head, a number for each value and grid, and the first model as it is.

    Args:
        path: of the file.
        form: arrays of the names, shapes and dtypes of the models.
        new: whether to make the file.
    """

    def __init__(self, path: Path, form: Arrays, *, new: bool) -> None:
        values = sum(array.size for array in form.values())
        starts = _starts(form)
        numbers = 2 + len(GRIDS) * values
        size = WORD * numbers + starts[-1]
        if new:
            path.write_bytes(bytes(size))
        memory = np.memmap(path, dtype=np.uint8, mode="r+" if new else "r", shape=(size,))
        all_numbers = memory[: WORD * numbers].view(np.float64)
        self._head, rest = all_numbers[:2], all_numbers[2:].reshape(len(GRIDS), values)
        self.sums: Sums = _by_name(form, rest)
        models = memory[WORD * numbers :]
        self._first = {
            name: models[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
            for (name, array), start in zip(form.items(), starts, strict=False)
        }
        self.mean = ExactMean()
        if new:
            self.mean.sum_into(self.sums)

    def add(self, arrays: Arrays, weight: int) -> None:
        """Add a model; on an error nothing is added.

        Raises:
            OverflowError: a value is too large.
        """
        is_first = self.mean.weight == 0
        self.mean.add(arrays, weight)
        if is_first:
            for name, array in arrays.items():
                self._first[name][...] = array
        self._head[:] = self.mean.weight, self._head[1] + 1

    def add_sum(self, arrays: Arrays, weight: int, models: int) -> None:
        """Add what is the sum of several models already, each times its weight.

        Raises:
            OverflowError: a value is too large.
        """
        self.mean.add(arrays, 1)
        self.mean.weight += weight - 1
        self._head[:] = self.mean.weight, self._head[1] + models

    def merge_into(self, mean: ExactMean) -> None:
        """Add all that is here to a mean."""
        if self._head[0]:
            first = {name: array.copy() for name, array in self._first.items()}
            mean.merge(self.sums, int(self._head[0]), first, models=int(self._head[1]))


def _by_name(form: Arrays, rest: NDArray[np.float64]) -> dict[str, dict[float, NDArray[np.float64]]]:
    found, start = dict[str, dict[float, NDArray[np.float64]]](), 0
    for name, array in form.items():
        found[name] = {grid: rest[row, start : start + array.size] for row, grid in enumerate(GRIDS)}
        start += array.size
    return found


def _starts(form: Mapping[str, NDArray[Any]]) -> list[int]:
    """Return where each array begins, and where the last ends, in bytes; each on a whole word."""
    starts = [0]
    for array in form.values():
        starts.append(starts[-1] + WORD * math.ceil(array.nbytes / WORD))
    return starts
