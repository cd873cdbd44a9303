"""Encoded images: one folder of them, with a sub-folder per class, and single ones from wherever they are stored."""

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fedquit.client.data.datasets.image_folder import SUFFIXES, open_image, pixels
from fedquit.client.device.local_data.item import Item
from fedquit.client.device.local_data.sample_content import Content
from fedquit.client.device.local_data.sample_digest import sample_digest
from fedquit.client.models.architectures import InputShape
from fedquit.errors import InputError


class ImageFolder:
    """`root/CLASS/**/*.png`: the classes by name, each one's images in the order of their paths.

    A file that goes while the folder is read is left out.
    """

    def __init__(self, root: Path) -> None:
        classes = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
        if not classes:
            raise InputError(f"{root} has no sub-folders; put the images into one sub-folder per class")
        self._root = root
        self._files = [
            (path, folder.name)
            for folder in classes
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in SUFFIXES and path.is_file()
        ]

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Item]:
        for path, label in self._files:
            try:
                encoded = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise InputError(f"cannot read the image {path}: {error.strerror or error}") from error
            yield image_item(path.relative_to(self._root).as_posix(), label, encoded, str(path))


def image_item(name: str, label: str, encoded: bytes, where: str) -> Item:
    """Return the sample that an encoded image is; `where` names it in errors."""
    return Item(name, label, sample_digest(encoded, label), partial(_decoded, encoded, where))


def _decoded(encoded: bytes, where: str, shape: InputShape | None) -> tuple[Content, Tensor]:
    """Decode an image and give it the channels and the size of the model's inputs."""
    image = open_image(io.BytesIO(encoded), where)
    channels, height, width = shape or (1 if image.mode == "L" else 3, image.height, image.width)
    if channels not in (1, 3):
        raise InputError(f"the model takes inputs of {channels} channels; {where} is an image, of 1 or 3")
    stored = image if image.mode == "L" else image.convert("RGB")
    content = Content(torch.from_numpy(pixels(stored, image.size).copy()), shaped=shape is not None)
    return content, torch.from_numpy(pixels(image.convert("L" if channels == 1 else "RGB"), (width, height)).copy())
