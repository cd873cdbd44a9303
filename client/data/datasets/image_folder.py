"""A dataset from a folder of images with one sub-folder per class."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedquit.client.data.datasets.dataset import Dataset, make_dataset, make_samples, split_and_make
from fedquit.errors import InputError
from fedquit.unlearning.samples import Samples

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
Labelled = list[tuple[Path, int]]


def load_folder(root: Path, image_size: int | None = None) -> Dataset:
    """Load `root/CLASS/*.png` or `root/train/CLASS/…` with `root/test/CLASS/…` (or `val`), as uint8 [N, C, H, W].

    Classes are numbered in the order of their names; without a test folder a fifth of each class is held out. All
    images are grey if every one of them is, else RGB.

    Args:
        root: The folder.
        image_size: Resize to this height and width; without it all images must have one size already.

    Raises:
        InputError: On fewer than two classes, an unreadable image, or different sizes.
    """
    parts = _parts(root)
    classes = _classes(parts[0])
    listed = [_images(part, classes) for part in parts]
    mode, size = _form([path for images in listed for path, _ in images], image_size)
    made = [_decode(images, mode, size, part) for images, part in zip(listed, parts, strict=True)]
    name = root.resolve().name
    if len(made) == 1:
        return split_and_make(name, made[0], source=str(root), num_classes=len(classes))
    return make_dataset(name, made[0], made[1], source=str(root), num_classes=len(classes))


def _parts(root: Path) -> list[Path]:
    """Return the folders of training and test images, or the one to be split."""
    for test in ("test", "val"):
        if (root / "train").is_dir() and (root / test).is_dir():
            return [root / "train", root / test]
    return [root]


def _classes(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise InputError(f"{folder} has {len(names)} class folders; put the images into one sub-folder per class")
    return names


def _images(folder: Path, classes: Sequence[str]) -> Labelled:
    """List the images of each class, in the order of their paths."""
    strange = [path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    for name in sorted(set(strange) - set(classes)):
        raise InputError(f"{folder / name}: class '{name}' is not among the training classes")
    listed: Labelled = []
    for label, name in enumerate(classes):
        paths = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not paths and (folder / name).is_dir():
            raise InputError(f"{folder / name} holds no images ({' '.join(sorted(SUFFIXES))})")
        listed += [(path, label) for path in paths]
    return listed


def _form(paths: Sequence[Path], image_size: int | None) -> tuple[str, tuple[int, int]]:
    """Return the common mode (L or RGB) and size (width, height), from the headers alone."""
    from PIL import Image

    mode, sizes = "L", dict[tuple[int, int], Path]()
    for path in paths:
        try:
            with Image.open(path) as image:
                found, size = image.mode, image.size
        except Exception as error:
            raise InputError(f"cannot read the image {path} ({error})") from error
        _check_depth(found, str(path))
        mode = mode if found == "L" else "RGB"
        sizes.setdefault(size, path)
    if image_size is not None:
        return mode, (image_size, image_size)
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise InputError(
            f"{first} is {one[0]}x{one[1]} but {second} is {other[0]}x{other[1]}; give --image-size to resize them all"
        )
    return mode, next(iter(sizes))


def _decode(images: Labelled, mode: str, size: tuple[int, int], part: Path) -> Samples:
    """Decode every image once, into one array [N, C, H, W]."""
    channels = 1 if mode == "L" else 3
    inputs: NDArray[np.uint8] = np.empty((len(images), channels, size[1], size[0]), dtype=np.uint8)
    for row, (path, _) in zip(inputs, images, strict=True):
        row[:] = pixels(open_image(path, str(path)).convert(mode), size)
    return make_samples(inputs, [label for _, label in images], source=str(part), keys=("images", "classes"))


def open_image(file: Path | IO[bytes], where: str) -> "Image":
    """Decode an image of 8 bits per value.

    Args:
        file: its path, or the open file.
        where: what to call it in errors.

    Raises:
        InputError: it is no image, is damaged, or has more than 8 bits per value.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.load()
    except Exception as error:
        raise InputError(f"cannot read the image {where} ({error})") from error
    _check_depth(image.mode, where)
    return image


def pixels(image: "Image", size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the values [C, H, W] of a grey or RGB image at another size (width, height), bilinear.

    >>> from PIL import Image
    >>> pixels(Image.new("RGB", (8, 8)), (4, 2)).shape
    (3, 2, 4)
    """
    from PIL.Image import Resampling

    resized = image if image.size == size else image.resize(size, Resampling.BILINEAR)
    return np.asarray(resized).reshape(size[1], size[0], -1).transpose(2, 0, 1)


def _check_depth(mode: str, where: str) -> None:
    if mode[0] in "IF":
        raise InputError(f"{where} has more than 8 bits per value (mode {mode}); convert it to 8 bits")
