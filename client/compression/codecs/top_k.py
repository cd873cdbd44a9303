"""Only the largest entries of an update, and where they are; the others wait for a later round (error feedback).

Source: Aji and Heafield, "Sparse Communication for Distributed Gradient Descent", arXiv 1704.05021; the error is kept
and added to the next update as in Stich et al., "Sparsified SGD with Memory", arXiv 1809.07599.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedquit.client.compression.codecs.codec import SELECTS, Codec, Slot, Take, Traits
from fedquit.errors import InputError
from fedquit.unlearning.setting_checks import is_number

MOST = 2**32
"""An index has 32 bits."""


@dataclass(frozen=True, slots=True)
class TopK(Codec):
    """The `share` of each array's entries that are largest in size, at least one; of equal ones those that come first.

    Attributes:
        share: of the entries; above one half the indices would take more than is saved.
        feedback: whether what is left out is added to the device's next update; it then needs a device-folder.

    >>> import numpy as np
    >>> compressed = TopK(share=0.5).encode("w", np.array([[1.0, -3.0], [0.5, 2.0]]))
    >>> compressed["w/indices"].tolist(), compressed["w/values"].tolist()
    ([1, 3], [-3.0, 2.0])
    """

    name: ClassVar[str] = "top-k"
    traits: ClassVar[Traits] = Traits(
        "the largest entries of an update; the others later", SELECTS, "arXiv 1704.05021", for_updates=True
    )

    share: float = 0.01
    feedback: bool = True

    def __post_init__(self) -> None:
        if not (is_number(self.share) and 0 < self.share <= 0.5):
            raise InputError(f"share is {self.share!r}; it must be above 0 and at most 0.5")
        if not isinstance(self.feedback, bool):
            raise InputError(f"feedback is {self.feedback!r}; it must be true or false")

    def count(self, size: int) -> int:
        """Return how many of `size` entries travel.

        >>> TopK(share=0.01).count(50), TopK(share=0.01).count(1001)
        (1, 11)
        """
        return min(size, max(1, math.ceil(self.share * size)))

    def encode(self, name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """See `Codec`.

        Raises:
            InputError: an array has more entries than an index can name.
        """
        if array.size > MOST:
            raise InputError(f"top-k: '{name}' has {array.size:,} entries, {MOST:,} at most can be told apart")
        flat = array.reshape(-1)
        sizes, count = np.abs(flat), self.count(array.size)
        least = np.partition(sizes, array.size - count)[array.size - count]
        larger, equal = np.flatnonzero(sizes > least), np.flatnonzero(sizes == least)
        indices = np.sort(np.concatenate([larger, equal[: count - len(larger)]]))
        return {f"{name}/values": flat[indices], f"{name}/indices": indices.astype(np.uint32)}

    def decode(self, name: str, slot: Slot, take: Take) -> NDArray[Any]:
        """See `Codec`. Indices must grow, so none is beyond the array and none comes twice."""
        count = self.count(slot.size)
        indices = take(f"{name}/indices", Slot("uint32", (count,)))
        if indices[-1] >= slot.size or (indices[1:] <= indices[:-1]).any():
            raise InputError(f"'{name}/indices' does not grow from 0 to {slot.size - 1} at most")
        array = np.zeros(slot.size, slot.dtype)
        array[indices] = take(f"{name}/values", Slot(slot.dtype, (count,)))
        return array.reshape(slot.shape or ())
