"""What a codec is: from one array to the arrays that travel in its place, and back without trusting them.

Who decodes says of every array which dtype and shape it must have before anything of it is read, and asks for it with
`take`; so codecs chain, each asking the next, and nothing that a stranger declares decides what is allocated.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

SELECTS, SHORTENS, PACKS = range(3)
"""What a codec does, in the order in which a chain does it: fewer numbers, shorter numbers, fewer bytes."""


class Slot(NamedTuple):
    """What an array must be: its dtype by name and its shape; a shape of None is a vector of any length."""

    dtype: str
    shape: tuple[int, ...] | None

    @property
    def size(self) -> int:
        """How many numbers.

        >>> Slot("float32", (2, 3)).size
        6
        """
        return math.prod(self.shape or ())

    @property
    def nbytes(self) -> int:
        """How many bytes.

        >>> Slot("float32", (2, 3)).nbytes
        24
        """
        return self.size * np.dtype(self.dtype).itemsize

    @property
    def is_float(self) -> bool:
        """Whether it holds fractions; what holds none is never changed."""
        return self.dtype in ("float16", "float32", "float64")

    @property
    def is_lossy(self) -> bool:
        """Whether a codec that is not exact may touch it: matrices and kernels, and nothing else.

        Vectors (biases, norms) are few bytes, a running variance must not fall below zero, and a counter must count.
        """
        return self.is_float and len(self.shape or ()) >= 2 and self.size > 0


def slot_of(array: NDArray[Any]) -> Slot:
    """Return what an array is.

    >>> slot_of(np.zeros((2, 3), np.float32))
    Slot(dtype='float32', shape=(2, 3))
    """
    return Slot(str(array.dtype), array.shape)


Take = Callable[[str, Slot], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Traits:
    """What a codec is, for programs to read.

    Attributes:
        summary: one line for people.
        stage: SELECTS, SHORTENS or PACKS.
        paper: where it comes from; "" if nowhere in particular.
        exact: whether what comes out is what went in, bit for bit.
        for_updates: whether it makes sense for updates only, as it leaves most numbers out.
    """

    summary: str
    stage: int
    paper: str = ""
    exact: bool = False
    for_updates: bool = False


class Codec:
    """What every codec is: a frozen dataclass of its settings, with both ways."""

    __slots__ = ()

    name: ClassVar[str]
    traits: ClassVar[Traits]

    def encode(self, name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the arrays that travel in place of `array`, which is finite: under its name, or `NAME/PART`."""
        raise NotImplementedError

    def decode(self, name: str, slot: Slot, take: Take) -> NDArray[Any]:
        """Return the array from what `take` hands over.

        Args:
            name: of the array.
            slot: what it must be.
            take: from a name and what that array must be, to the array.

        Raises:
            InputError: what came is not what `encode` makes of such an array.
        """
        raise NotImplementedError
