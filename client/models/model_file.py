"""A model as a file: safetensors, whose SHA-256 is the model's name at the server and on every device."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from fedquit.errors import FedquitError

T = TypeVar("T")
SHARED = "shared"
"""In a file's metadata: names -> the names under which their tensors are stored."""


def model_bytes(arrays: Mapping[str, NDArray[Any] | Tensor]) -> bytes:
    """Return the safetensors file of a model; the same arrays give the same bytes.

    >>> model_bytes({"w": np.zeros(1)}) == model_bytes({"w": np.zeros(1)})
    True
    """
    return save({name: np.asarray(_here(array), order="C") for name, array in arrays.items()})


def _here(array: NDArray[Any] | Tensor) -> NDArray[Any] | Tensor:
    return array.detach().cpu() if isinstance(array, Tensor) else array


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
    """Return the tensors of a safetensors file, by name; see `arrays_in`, and `state_bytes` for shared ones."""
    return _opened(_with_shared, content, what)


def state_bytes(state: Mapping[str, Tensor]) -> bytes:
    """Return the safetensors file of a state: a tensor that goes by several names, as shared weights do, is in it once.

    >>> weight = torch.ones(2)
    >>> sorted(tensors_in(state_bytes({"encoder": weight, "decoder": weight}), "it"))
    ['decoder', 'encoder']
    """
    first, kept, shared = dict[Any, str](), dict[str, Tensor](), dict[str, str]()
    for name, tensor in state.items():
        view = (
            tensor.untyped_storage().data_ptr(),
            tensor.storage_offset(),
            tensor.shape,
            tensor.stride(),
            tensor.dtype,
        )
        if tensor.numel() and first.setdefault(view, name) != name:
            shared[name] = first[view]
        else:
            kept[name] = tensor
    return save_tensors(_apart(kept), {SHARED: json.dumps(shared)} if shared else None)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors of which no two share memory: what is a part of another is copied."""
    seen, found = set[int](), dict[str, Tensor]()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone(memory_format=torch.contiguous_format) if place in seen else tensor.contiguous()
        seen.add(place)
    return found


def _with_shared(content: bytes) -> dict[str, Tensor]:
    tensors = load_tensors(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    shared = json.loads(header.get("__metadata__", {}).get(SHARED, "{}"))
    return {**tensors, **{name: tensors[first] for name, first in shared.items()}}


def _opened(reader: Callable[[bytes], dict[str, T]], content: bytes, what: object) -> dict[str, T]:
    try:
        return dict(sorted(reader(content).items()))  # the library gives them in an order that no two processes share
    except Exception as error:  # whatever foreign bytes bring about in the library
        message = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise FedquitError(f"{what} is damaged, or no safetensors file: {message}") from None
