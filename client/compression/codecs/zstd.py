"""The bytes of every array, deflated by Zstandard (RFC 8878): exact, and small where bytes repeat."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import zstandard
from numpy.typing import NDArray

from fedquit.client.compression.codecs.codec import PACKS, Codec, Slot, Take, Traits
from fedquit.errors import InputError

HIGHEST = 19


@dataclass(frozen=True, slots=True)
class Zstd(Codec):
    """First bytes first: numbers of like size have like first bytes, and what is alike lies together.

    The frame says how many bytes it holds; one that says other than it must, or does not say, is not opened.

    Attributes:
        level: 1, quick, to 19, small.

    >>> import numpy as np
    >>> compressed = Zstd().encode("w", np.ones(1000, np.float32))
    >>> compressed["w"].dtype, len(compressed["w"]) < 50
    (dtype('uint8'), True)
    """

    name: ClassVar[str] = "zstd"
    traits: ClassVar[Traits] = Traits("deflated by Zstandard", PACKS, "RFC 8878", exact=True)

    level: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.level, int) or isinstance(self.level, bool) or not 1 <= self.level <= HIGHEST:
            raise InputError(f"level is {self.level!r}; it must be a whole number from 1 to {HIGHEST}")

    def encode(self, name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """See `Codec`."""
        plain = np.frombuffer(array.tobytes(), np.uint8).reshape(-1, array.dtype.itemsize)
        frame = zstandard.ZstdCompressor(level=self.level).compress(plain.T.tobytes())
        return {name: np.frombuffer(frame, np.uint8)}

    def decode(self, name: str, slot: Slot, take: Take) -> NDArray[Any]:
        """See `Codec`."""
        frame = take(name, Slot("uint8", None)).tobytes()
        try:
            declared = zstandard.frame_content_size(frame)
            if declared != slot.nbytes:
                count = "does not say how many" if declared < 0 else f"{declared:,}"
                raise InputError(f"'{name}' holds other than {slot.nbytes:,} bytes: {count}")
            plain = zstandard.ZstdDecompressor().decompress(
                frame, max_output_size=slot.nbytes, read_across_frames=False, allow_extra_data=False
            )
        except zstandard.ZstdError as error:
            raise InputError(f"'{name}' cannot be inflated: {error}") from None
        if len(plain) != slot.nbytes:
            raise InputError(f"'{name}' inflates to {len(plain):,} bytes, not {slot.nbytes:,}")
        whole = np.frombuffer(plain, np.uint8).reshape(np.dtype(slot.dtype).itemsize, -1).T.tobytes()
        return np.frombuffer(whole, slot.dtype).reshape(slot.shape or ())
