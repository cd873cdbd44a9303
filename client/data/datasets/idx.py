"""MNIST and Fashion-MNIST from their idx files, plain or gzip-packed.

The format (http://yann.lecun.com/exdb/mnist): two zero bytes, a type (8: unsigned bytes), the number of dimensions,
each dimension as a big-endian 32-bit integer, then the values.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedquit.client.data.datasets.dataset import Dataset, make_dataset, make_samples
from fedquit.client.data.datasets.find_files import find_or_download
from fedquit.errors import InputError

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
CHUNK = 1 << 20


def load_idx(name: str, data_root: Path, download: bool) -> Dataset:
    """Load `mnist` or `fashion-mnist`: 10 classes, uint8 inputs [N, 1, 28, 28].

    Looks in torchvision's layout under the root, in a folder of the dataset's name, in the root itself and, for
    Fashion-MNIST, in Debian's folder.

    Raises:
        InputError: If the files are nowhere, or one of them is damaged.
    """
    folders = [data_root / TORCHVISION[name] / "raw", data_root / name, data_root]
    if name == "fashion-mnist":
        folders.append(DEBIAN)
    files = find_or_download(
        name,
        folders,
        _all_four,
        (lambda: _download(name, data_root)) if download else None,
        package="dataset-fashion-mnist" if name == "fashion-mnist" else None,
    )
    folder, names = files[0].parent, [file.name for file in files]
    arrays = [read_idx(file) for file in files]
    train = make_samples(arrays[0], arrays[1], source=str(folder), keys=(names[0], names[1]))
    test = make_samples(arrays[2], arrays[3], source=str(folder), keys=(names[2], names[3]))
    return make_dataset(name, train, test, source=str(folder), num_classes=10)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one idx file of unsigned bytes, gzip-packed or not.

    Memory follows what the file holds, never what its header declares, so a lying header costs nothing.

    Raises:
        InputError: Naming the file, if it is not idx or does not hold what its header declares.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> file = Path(folder.name) / "labels"
    >>> _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    >>> read_idx(file)
    array([7, 8, 9], dtype=uint8)
    >>> folder.cleanup()
    """
    try:
        with path.open("rb") as raw:
            if raw.peek(2)[:2] == b"\x1f\x8b":
                with gzip.open(raw) as unpacked:
                    return _read_stream(unpacked, path)
            return _read_stream(raw, path)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path} ({error}); get the file again") from error


def _read_stream(stream: BinaryIO | gzip.GzipFile, path: Path) -> NDArray[np.uint8]:
    """Read the header and just as many values as it declares."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
        raise InputError(f"{path} is not an idx file of bytes (it begins with {magic.hex() or 'nothing'})")
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise InputError(f"{path} ends within its header; get the file again")
    shape = struct.unpack(f">{magic[3]}I", header)
    declared = math.prod(shape)
    values = _read_at_most(stream, declared + 1)
    if len(values) != declared:
        held = "more" if len(values) > declared else "fewer"
        raise InputError(f"{path} declares {declared} values {list(shape)} but holds {held}; get the file again")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _read_at_most(stream: BinaryIO | gzip.GzipFile, size: int) -> bytearray:
    """Read up to `size` bytes, piece by piece, so that memory follows what is there and not what was asked for."""
    values = bytearray()
    while len(values) < size and (piece := stream.read(min(CHUNK, size - len(values)))):
        values += piece
    return values


def _all_four(folder: Path) -> list[Path] | None:
    found = [next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None) for file in FILES]
    files = [path for path in found if path]
    return files if len(files) == len(FILES) else None


def _download(name: str, data_root: Path) -> None:
    from torchvision import datasets

    getattr(datasets, TORCHVISION[name])(data_root, download=True)
