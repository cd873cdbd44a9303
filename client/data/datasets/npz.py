"""A dataset from one `.npz` file: the form in which most arrays already lie about."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from fedquit.client.data.datasets.dataset import Dataset, make_dataset, make_samples, split_and_make
from fedquit.errors import InputError

SPLIT = ("x_train", "y_train", "x_test", "y_test")
WHOLE = ("x", "y")


def load_npz(path: Path) -> Dataset:
    """Load `x_train, y_train, x_test, y_test`, or `x, y` of which a fifth of each class is held out for testing.

    Inputs are uint8 or floating point in any form `as_inputs` knows. Further one-dimensional arrays as long as the
    training labels become columns, by which the data can be split among clients. Nothing in the file is unpickled.

    Raises:
        InputError: Naming the file and the key, whatever is wrong.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> file = Path(folder.name) / "made.npz"
    >>> np.savez(file, x=np.zeros((10, 8, 8), np.uint8), y=[0, 1] * 5, writer=list("aabbccddee"))
    >>> made = load_npz(file)
    >>> made.input_shape, made.num_classes, made.columns["writer"].shape
    ((1, 8, 8), 2, (8,))
    >>> folder.cleanup()
    """
    with opened(path) as archive:
        keys: tuple[str, ...] = SPLIT if "x_train" in archive.files or "y_train" in archive.files else WHOLE
        for key in keys:
            if key not in archive.files:
                held = ", ".join(archive.files) or "nothing"
                raise InputError(f"{path}: no '{key}' (it holds {held}); give {', '.join(SPLIT)}, or x, y")
        arrays = [read_array(archive, key, path) for key in keys]
        others = {key: read_array(archive, key, path) for key in archive.files if key not in SPLIT + WHOLE}
    source = str(path)
    columns = {key: values for key, values in others.items() if values.shape == (len(arrays[0]),)}
    train = make_samples(arrays[0], arrays[1], source=source, keys=(keys[0], keys[1]))
    if keys == WHOLE:
        return split_and_make(path.stem, train, source=source, columns=columns)
    test = make_samples(arrays[2], arrays[3], source=source, keys=(keys[2], keys[3]))
    return make_dataset(path.stem, train, test, source=source, columns=columns)


@contextmanager
def opened(path: Path) -> Iterator[NpzFile]:
    """Open an archive for as long as the context lasts.

    Raises:
        InputError: it is not there, or no archive of arrays.
    """
    try:
        archive = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {path} as .npz (truncated, or not made by numpy.savez): {error}") from error
    if not isinstance(archive, NpzFile):
        raise InputError(f"{path} holds a single array; write it with numpy.savez and the keys x, y")
    with archive:
        yield archive


def read_array(archive: NpzFile, key: str, path: Path) -> NDArray[Any]:
    """Read one array of an open archive.

    Raises:
        InputError: it cannot be read, or is no array.
    """
    try:
        array = archive[key]
    except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: cannot read '{key}' ({error})") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: '{key}' is not an array")
    if key in SPLIT + WHOLE and array.ndim == 0:
        raise InputError(f"{path}: '{key}' is a single value, not one per sample")
    return array
