"""Eight bits for each number, and for each output channel the step between two neighbours.

Symmetric, and rounded to the nearest level, halves to the even one: the same numbers always travel as the same bytes.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedquit.client.compression.codecs.codec import SHORTENS, Codec, Slot, Take, Traits
from fedquit.errors import InputError

LEVELS = 127


@dataclass(frozen=True, slots=True)
class Int8(Codec):
    """`round(w / step)` with `step = max |w| / 127` of each output channel, the array's first dimension.

    A vector (the numbers that another codec has chosen) has one step.

    >>> import numpy as np
    >>> compressed = Int8().encode("w", np.array([[0.5, -1.27], [0.0, 0.0]], np.float32))
    >>> compressed["w/levels"].tolist(), compressed["w/steps"].round(3).tolist()
    ([[50, -127], [0, 0]], [0.009999999776482582, 0.0])
    """

    name: ClassVar[str] = "int8"
    traits: ClassVar[Traits] = Traits("numbers in 8 bits, a step for each output channel", SHORTENS)

    def encode(self, name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """See `Codec`."""
        if array.dtype.kind != "f":
            return {name: array}
        rows = array.reshape(_channels(array.shape), -1)
        steps = np.abs(rows).max(axis=1) / array.dtype.type(LEVELS)
        least = np.finfo(array.dtype).smallest_subnormal  # a channel of zeros, or of less than 127 of these, is zeros
        levels = np.rint(rows / np.maximum(steps, least)[:, None]).clip(-LEVELS, LEVELS).astype(np.int8)
        return {f"{name}/levels": levels.reshape(array.shape), f"{name}/steps": steps}

    def decode(self, name: str, slot: Slot, take: Take) -> NDArray[Any]:
        """See `Codec`."""
        if not slot.is_float or slot.shape is None:
            return take(name, slot)
        steps = take(f"{name}/steps", Slot(slot.dtype, (_channels(slot.shape),)))
        if not (np.isfinite(steps) & (steps >= 0)).all():
            raise InputError(f"'{name}/steps' must be finite and non-negative")
        levels = take(f"{name}/levels", Slot("int8", slot.shape))
        rows = levels.reshape(len(steps), -1).astype(slot.dtype)
        with np.errstate(over="ignore"):
            rows *= steps[:, None]
        return rows.reshape(slot.shape)


def _channels(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) > 1 else 1
