"""A model as a file: safetensors, whose SHA-256 is the model's name at the server and on every device."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor


def model_bytes(arrays: Mapping[str, NDArray[Any] | Tensor]) -> bytes:
    """Return the safetensors file of a model; the same arrays give the same bytes.

    >>> model_bytes({"w": np.zeros(1)}) == model_bytes({"w": np.zeros(1)})
    True
    """
    return save({name: np.asarray(array, order="C") for name, array in arrays.items()})


def model_hash(arrays: Mapping[str, NDArray[Any] | Tensor]) -> str:
    """Return the name of a model: hex SHA-256 of its file."""
    return hashlib.sha256(model_bytes(arrays)).hexdigest()
