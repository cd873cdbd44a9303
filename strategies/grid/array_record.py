"""A model as Flower sends it, an `ArrayRecord`, and as arrays; see `fedquit.unlearning.tensors.convert`."""

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedquit.unlearning.tensors.convert import Arrays


def record_of(arrays: Arrays) -> ArrayRecord:
    """Return arrays as Flower's record, names in order; each in C order, the only one that readers take.

    >>> arrays_of_record(record_of({"w": np.ones((2, 2), order="F")}))["w"].flags.c_contiguous
    True
    """
    return ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in arrays.items()})


def arrays_of_record(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Return Flower's record as arrays."""
    return {name: array.numpy() for name, array in record.items()}
