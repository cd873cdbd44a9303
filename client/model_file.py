"""A model as a file: safetensors, whose SHA-256 is the model's name at the server and on every device."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save
from safetensors.torch import load as load_tensors
from torch import Tensor

from fedquit.errors import FedquitError

T = TypeVar("T")


def model_bytes(arrays: Mapping[str, NDArray[Any] | Tensor]) -> bytes:
    """Return the safetensors file of a model; the same arrays give the same bytes.

    >>> model_bytes({"w": np.zeros(1)}) == model_bytes({"w": np.zeros(1)})
    True
    """
    return save({name: np.asarray(array, order="C") for name, array in arrays.items()})


def model_hash(arrays: Mapping[str, NDArray[Any] | Tensor]) -> str:
    """Return the name of a model: hex SHA-256 of its file."""
    return hashlib.sha256(model_bytes(arrays)).hexdigest()


def arrays_in(content: bytes, what: object) -> dict[str, NDArray[Any]]:
    """Return the arrays of a safetensors file, by name; `what` is the file, for the error.

    Raises:
        FedquitError: it is damaged, or none.

    >>> arrays_in(model_bytes({"w": np.zeros(1)}), "it")
    {'w': array([0.])}
    """
    return _opened(load, content, what)


def tensors_in(content: bytes, what: object) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, by name; see `arrays_in`."""
    return _opened(load_tensors, content, what)


def _opened(reader: Callable[[bytes], dict[str, T]], content: bytes, what: object) -> dict[str, T]:
    try:
        return dict(sorted(reader(content).items()))  # the library gives them in an order that no two processes share
    except Exception as error:  # whatever foreign bytes bring about in the library
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise FedquitError(f"{what} is damaged, or no safetensors file: {told}") from None
