"""One sample of a device's own data, before anything is done with it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedquit.client.device.local_data.sample_content import Content
from fedquit.client.models.architectures import InputShape

Open = Callable[[InputShape | None], tuple[Content, Tensor]]


@dataclass(frozen=True, slots=True)
class Item:
    """A sample as it lies there.

    Attributes:
        name: what its owner calls it: the file's path within the folder, or the number of the row, from 0.
        label: as it is stored, as text.
        digest: see `sample_digest`.
        open: decodes it, for the model's input shape (None: as it is): its content, and the input [C, H, W] as
            uint8 or float32.
    """

    name: str
    label: str
    digest: bytes
    open: Open


class Source(Protocol):
    """Data in one of the forms that a device may have it in; it is read again every time."""

    def __len__(self) -> int:
        """Return how many samples there are at most."""
        ...

    def __iter__(self) -> Iterator[Item]:
        """Yield the samples one after the other, always in the same order."""
        ...
