"""Data by name: embedded, found on disk, downloaded where allowed, or the user's own.

One file per source; `DATASETS` lists those with a name. Everything is decoded once and kept as tensors: reading a
dataset batch by batch from its files costs up to twice the training time.
"""

import threading
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

from fedquit.client.data.datasets.cifar import load_cifar
from fedquit.client.data.datasets.dataset import Dataset
from fedquit.client.data.datasets.digits import load_digits
from fedquit.client.data.datasets.find_files import default_data_root
from fedquit.client.data.datasets.idx import load_idx
from fedquit.client.data.datasets.image_folder import load_folder
from fedquit.client.data.datasets.npz import load_npz
from fedquit.client.data.datasets.resize import resize
from fedquit.client.data.datasets.user_dataset import load_factory
from fedquit.client.data.datasets.visible_digits import (
    load_backdoor,
    load_inverted,
    load_own_classes,
    load_wrong_labels,
)
from fedquit.errors import InputError, unknown
from fedquit.user_factory import is_factory

__all__ = ["DATASETS", "Dataset", "load_dataset"]

DATASETS: dict[str, Callable[[Path, bool], Dataset]] = {
    "digits": lambda _root, _download: load_digits(),
    "digits-wrong-labels": lambda _root, _download: load_wrong_labels(),
    "digits-inverted": lambda _root, _download: load_inverted(),
    "digits-own-classes": lambda _root, _download: load_own_classes(),
    "digits-backdoor": lambda _root, _download: load_backdoor(),
    "fashion-mnist": partial(load_idx, "fashion-mnist"),
    "mnist": partial(load_idx, "mnist"),
    "cifar10": partial(load_cifar, "cifar10"),
    "cifar100": partial(load_cifar, "cifar100"),
}
"""Every data set by name, with what loads it: from the folder to look in first, and whether it may be downloaded."""
_one_at_a_time = threading.RLock()  # a factory may call `load_dataset` itself


def load_dataset(
    name: str, *, data_root: Path | None = None, download: bool = False, image_size: int | None = None
) -> Dataset:
    """Load a dataset, once per process: the last four are kept, and shared by every caller.

    Args:
        name: One of `DATASETS`, the path of an image folder or `.npz` file, or `package.module:factory`.
        data_root: Where named datasets lie and are downloaded to; by default `$FEDQUIT_DATA`, else `~/.cache/fedquit`.
        download: Whether a missing named dataset may be downloaded.
        image_size: Resize images to this height and width.

    Raises:
        InputError: With one line that names what is wrong and the way out.

    >>> load_dataset("digits").train.inputs.shape
    torch.Size([1438, 1, 8, 8])
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"--image-size must be at least 1, not {image_size}")
    root = data_root.expanduser() if data_root else default_data_root()
    with _one_at_a_time:
        return _load(name, Path.cwd(), root.absolute(), download, image_size)


@lru_cache(maxsize=4)
def _load(name: str, folder: Path, root: Path, download: bool, image_size: int | None) -> Dataset:
    """Load `name`; a relative path is meant within `folder`."""
    if name in DATASETS:
        dataset = DATASETS[name](root, download)
    elif is_factory(name):
        dataset = load_factory(name)
    else:
        dataset = _load_path(name, folder / Path(name).expanduser(), image_size)
    return resize(dataset, image_size) if image_size else dataset


def _load_path(name: str, path: Path, image_size: int | None) -> Dataset:
    if path.suffix == ".npz":
        return load_npz(path)
    if path.is_dir():
        return load_folder(path, image_size)
    if path.is_file():
        raise InputError(f"{path} is neither a folder of images nor a .npz file")
    if len(Path(name).parts) > 1:
        raise InputError(f"no such folder: {path}")
    error = unknown("dataset", name, DATASETS)
    raise InputError(f"{error}, the path of an image folder or .npz file, or package.module:factory")
