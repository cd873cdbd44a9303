"""CIFAR-10 and CIFAR-100 from their "python version": pickles read without trusting them.

A pickle can run any code it likes when it is loaded. These may only build NumPy arrays, lists, strings and
dictionaries; whatever else one asks for is refused before anything happens. Only the download is torchvision's.
"""

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedquit.client.data.datasets.dataset import Dataset, make_dataset, make_samples
from fedquit.client.data.datasets.find_files import find_or_download
from fedquit.errors import InputError
from fedquit.unlearning.samples import Samples


class _Layout(NamedTuple):
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str
    num_classes: int
    torchvision: str


LAYOUTS = {
    "cifar10": _Layout(
        "cifar-10-batches-py",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        ("test_batch",),
        "labels",
        10,
        "CIFAR10",
    ),
    "cifar100": _Layout("cifar-100-python", ("train",), ("test",), "fine_labels", 100, "CIFAR100"),
}


def load_cifar(name: str, data_root: Path, download: bool) -> Dataset:
    """Load `cifar10` or `cifar100` (its 100 fine labels): uint8 inputs [N, 3, 32, 32].

    Looks for the unpacked folder (`cifar-10-batches-py`, `cifar-100-python`) under the root, or in the root itself.

    Raises:
        InputError: If the files are nowhere, damaged, or pickles of anything but arrays.
    """
    layout = LAYOUTS[name]
    files = find_or_download(
        name,
        [data_root / layout.folder, data_root / name / layout.folder, data_root],
        lambda folder: _all_files(layout, folder),
        (lambda: _download(layout, data_root)) if download else None,
    )
    count = len(layout.train)
    train = _join([read_batch(file, layout.labels) for file in files[:count]])
    test = _join([read_batch(file, layout.labels) for file in files[count:]])
    return make_dataset(name, train, test, source=str(files[0].parent), num_classes=layout.num_classes)


def read_batch(path: Path, labels: str) -> Samples:
    """Read one batch: `data` uint8 [N, 3072], channel by channel, and the list named `labels`.

    Raises:
        InputError: Naming the file and what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"cannot read {path} ({error or type(error).__name__}); get the file again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a CIFAR batch (a {type(content).__name__} instead of a dictionary)")
    batch = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    for key in ("data", labels):
        if key not in batch:
            raise InputError(f"{path} is not a CIFAR batch: no '{key}'")
    data = batch["data"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise InputError(f"{path} is not a CIFAR batch: 'data' is not bytes of shape [N, 3072]")
    return make_samples(data.reshape(-1, 3, 32, 32), batch[labels], source=str(path), keys=("data", labels))


def _latin1(text: str, encoding: str) -> bytes:
    """Stand in for `_codecs.encode`, with which old pickle protocols write bytes."""
    if encoding != "latin1":
        raise InputError(f"asks for the encoding '{encoding}'; only arrays are read from it")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that can name nothing but what NumPy needs to rebuild an array."""

    _rebuild = np.empty(0, np.uint8).__reduce__()[0]
    _from_buffer = np.empty(1, np.uint8).__reduce_ex__(5)[0]
    _allowed: dict[tuple[str, str], Any] = {  # noqa: RUF012 - a constant; ClassVar would say it no better
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): _rebuild,
        ("numpy._core.multiarray", "_reconstruct"): _rebuild,
        ("numpy.core.numeric", "_frombuffer"): _from_buffer,
        ("numpy._core.numeric", "_frombuffer"): _from_buffer,
        ("_codecs", "encode"): _latin1,
    }

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return an allowed constructor, or refuse the file."""
        try:
            return self._allowed[module_name, global_name]
        except KeyError:
            raise InputError(f"asks for {module_name}.{global_name}; only arrays are read from it") from None


def _join(batches: list[Samples]) -> Samples:
    import torch

    return Samples(torch.cat([batch.inputs for batch in batches]), torch.cat([batch.labels for batch in batches]))


def _all_files(layout: _Layout, folder: Path) -> list[Path] | None:
    files = [folder / file for file in (*layout.train, *layout.test)]
    return files if all(file.is_file() for file in files) else None


def _download(layout: _Layout, data_root: Path) -> None:
    from torchvision import datasets
    from torchvision.datasets.utils import download_and_extract_archive

    source = getattr(datasets, layout.torchvision)
    download_and_extract_archive(source.url, data_root, filename=source.filename, md5=source.tgz_md5)
