"""Half precision: ten bits of each number and a smaller range (IEEE 754 binary16)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedquit.client.compression.codecs.codec import SHORTENS, Codec, Slot, Take, Traits

LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class FP16(Codec):
    """Every number rounded to the nearest half; one beyond 65504 becomes that, and the error that is measured says so.

    >>> import numpy as np
    >>> FP16().encode("w", np.array([0.1, 1e6], np.float32))["w"].tolist()
    [0.0999755859375, 65504.0]
    """

    name: ClassVar[str] = "fp16"
    traits: ClassVar[Traits] = Traits("numbers in half precision", SHORTENS, "IEEE 754")

    def encode(self, name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """See `Codec`."""
        if array.dtype.kind != "f":
            return {name: array}
        return {name: array.clip(-LARGEST, LARGEST).astype(np.float16)}

    def decode(self, name: str, slot: Slot, take: Take) -> NDArray[Any]:
        """See `Codec`."""
        return take(name, slot._replace(dtype="float16")).astype(slot.dtype) if slot.is_float else take(name, slot)
