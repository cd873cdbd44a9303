"""Weights from outside fedquit: safetensors by name, or an npz file by name or in the model's order.

Whatever form they come in, a model is named by the SHA-256 of the file that fedquit would write of it: so a copy of the
original in another format is still recognised as the original.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fedquit.client.models.model_file import arrays_in
from fedquit.errors import InputError
from fedquit.unlearning.tensors.convert import arrays_of, load_arrays

ZIP = b"PK\x03\x04"
LARGEST_NUMBER, HEADER = 16, 4096
"""Bytes at most of a number, and of what an npz file says of an array."""
DAMAGED = (ValueError, OSError, EOFError, RuntimeError, MemoryError, AttributeError, zlib.error, zipfile.BadZipFile)
"""What opening a damaged or a hostile npz file raises."""


def load_weights(model: nn.Module, content: bytes, path: Path, what: str) -> None:
    """Fill a model with the weights in a file.

    Args:
        model: to be filled.
        content: of the file: safetensors, or npz with the model's names or with `arr_0`, `arr_1`, … in their order.
        path: of the file, for errors.
        what: which model it should fit, for errors.

    Raises:
        FedquitError: the file is damaged or neither of these.
        InputError: an array is missing, is one too many, or has another shape or no numbers.
    """
    wanted: Mapping[str, Tensor] = model.state_dict()
    given = _arrays_in_npz(content, path, wanted) if content.startswith(ZIP) else arrays_in(content, path)
    for name in [*wanted, *given]:
        shapes = [None if values is None else tuple(values.shape) for values in (given.get(name), wanted.get(name))]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"{path} does not fit {what}: '{name}' is {_shape(shapes[0])}, should be {_shape(shapes[1])}"
            )
        if given[name].dtype.kind not in "fiub":
            raise InputError(f"{path}: '{name}' holds {given[name].dtype}, not numbers")
    own = arrays_of(wanted)
    load_arrays(model, {name: given[name].astype(array.dtype) for name, array in own.items()})


def _arrays_in_npz(content: bytes, path: Path, wanted: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz file by the model's names; nothing pickled, and nothing far too large, is opened."""
    names, most = list(wanted), sum(LARGEST_NUMBER * tensor.numel() + HEADER for tensor in wanted.values()) + HEADER
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            if sum(part.file_size for part in file.zip.infolist()) > most:
                raise InputError(f"{path} holds far more numbers than the model")
            if strange := [name for name in file.files if f"{name}.npy" not in file.zip.namelist()]:
                raise InputError(f"{path}: '{strange[0]}' is no array; write the file with numpy.savez")
            positions = [f"arr_{number}" for number in range(len(file.files))]
            if set(file.files) != set(positions):
                return {name: file[name] for name in file.files}
            if len(positions) != len(names):
                raise InputError(
                    f"{path} holds {len(positions)} arrays without names; the model has {len(names)}, in this order: "
                    f"{', '.join(names)}"
                )
            return {name: file[position] for name, position in zip(names, positions, strict=True)}
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(f"{path} is no npz file of numbers ({error}); write it with numpy.savez") from None


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
