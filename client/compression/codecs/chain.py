"""Codecs one after the other, such as `top-k+fp16+zstd`, on all arrays of a model, or on what became of them.

A matrix is compressed as its update: the model minus the one that came. A chain of exact codecs compresses the model
itself, as a difference and a sum would round. What is no matrix of fractions passes through exact codecs alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedquit.client.compression.codecs.codec import Codec, Slot, Take, slot_of
from fedquit.client.compression.codecs.fp16 import FP16
from fedquit.client.compression.codecs.int8 import Int8
from fedquit.client.compression.codecs.npy_reader import Parcel
from fedquit.client.compression.codecs.svd import SVD
from fedquit.client.compression.codecs.top_k import TopK
from fedquit.client.compression.codecs.zstd import Zstd
from fedquit.errors import InputError, unknown
from fedquit.unlearning.tensors.convert import Arrays

CODECS: dict[str, type[Codec]] = {cls.name: cls for cls in (TopK, SVD, FP16, Int8, Zstd)}
"""Every codec by name, in the order in which a chain may name them."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """What became of a model.

    Attributes:
        arrays: what travels.
        received: the model that the other side reads from it.
        error: L2 norm of what is lost of the matrices, over that of what was to be sent of them; 0 if both are 0.
        owed: what is lost of each matrix, to be added to the next update.
    """

    arrays: dict[str, NDArray[Any]]
    received: dict[str, NDArray[Any]]
    error: float
    owed: dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Chain:
    """The codecs, in the order in which arrays pass them.

    >>> chain, model = chain_of("fp16+zstd"), {"w": np.full((2, 2), 0.1), "steps": np.array(7)}
    >>> compressed = chain.encode(model)
    >>> got = chain.decode(compressed.arrays, {name: slot_of(array) for name, array in model.items()})
    >>> got["w"].round(4).tolist(), int(got["steps"]), 0 < compressed.error < 2**-11
    ([[0.1, 0.1], [0.1, 0.1]], 7, True)
    """

    codecs: tuple[Codec, ...]

    @property
    def name(self) -> str:
        """As the settings say it."""
        return "+".join(codec.name for codec in self.codecs)

    @property
    def exact(self) -> bool:
        """Whether the other side reads the model bit for bit."""
        return all(codec.traits.exact for codec in self.codecs)

    @property
    def keeps(self) -> bool:
        """Whether what is lost is to be added to the next update."""
        return any(isinstance(codec, TopK) and codec.feedback for codec in self.codecs)

    def encode(self, model: Arrays, reference: Arrays | None = None, owed: Arrays | None = None) -> Compressed:
        """Return what travels in place of `model`, and what the other side makes of it.

        Args:
            model: names to arrays.
            reference: the model that the other side has; None: none, so that the model itself is compressed.
            owed: what is added to the update of each matrix.

        Raises:
            InputError: the model, or its update, is not finite.
        """
        target = {name: self._difference(name, array, reference, owed) for name, array in model.items()}
        _check_finite(target)
        arrays = {part: value for name, array in target.items() for part, value in self._parts(name, array).items()}
        if self.exact:
            return Compressed(arrays, dict(model), 0.0, {})
        slots = {name: slot_of(array) for name, array in model.items()}
        got = self._taken(arrays, slots)
        lossy = [name for name, slot in slots.items() if slot.is_lossy]
        lost = {name: target[name] - got[name] for name in lossy}
        error = _norm(lost.values()), _norm(target[name] for name in lossy)
        return Compressed(arrays, self._summed(got, slots, reference), error[0] / error[1] if error[1] else 0.0, lost)

    def decode(
        self, given: Mapping[str, bytes | NDArray[Any]], slots: Mapping[str, Slot], reference: Arrays | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return the model from what came; `slots` says what each of its arrays must be.

        Raises:
            InputError: what came is anything but what `encode` makes of such a model, or is not finite.
        """
        got = self._taken(given, slots)
        _check_finite(got)
        return self._summed(got, slots, reference)

    def _difference(
        self, name: str, array: NDArray[Any], reference: Arrays | None, owed: Arrays | None
    ) -> NDArray[Any]:
        if self.exact or not slot_of(array).is_lossy:
            return array
        with np.errstate(invalid="ignore", over="ignore"):
            update = array if reference is None else array - reference[name]
            return update if owed is None else update + owed[name]

    def _summed(self, got: Arrays, slots: Mapping[str, Slot], reference: Arrays | None) -> dict[str, NDArray[Any]]:
        if self.exact or reference is None:
            return dict(got)
        with np.errstate(over="ignore"):
            return {name: got[name] + reference[name] if slot.is_lossy else got[name] for name, slot in slots.items()}

    def _parts(self, name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the arrays that travel in place of one."""
        parts = {name: array}
        for codec in self._codecs_for(slot_of(array)):
            parts = {key: part for own, value in parts.items() for key, part in codec.encode(own, value).items()}
        return parts

    def _taken(self, given: Mapping[str, bytes | NDArray[Any]], slots: Mapping[str, Slot]) -> dict[str, NDArray[Any]]:
        """Decode each array from what came."""
        parcel = Parcel(given)
        got = {name: _taker(self._codecs_for(slot), parcel.take)(name, slot) for name, slot in slots.items()}
        parcel.check_empty()
        return got

    def _codecs_for(self, slot: Slot) -> Sequence[Codec]:
        return self.codecs if slot.is_lossy else [codec for codec in self.codecs if codec.traits.exact]


def _taker(codecs: Sequence[Codec], take: Take) -> Take:
    """Return what takes an array through the codecs, the last of which asks `take`."""
    for codec in reversed(codecs):
        take = _through(codec, take)
    return take


def _through(codec: Codec, take: Take) -> Take:
    return lambda name, slot: codec.decode(name, slot, take)


def _check_finite(arrays: Arrays) -> None:
    for name, array in arrays.items():
        if slot_of(array).is_float and not np.isfinite(array).all():
            raise InputError(f"'{name}' holds NaN or infinity")


def _norm(arrays: Any) -> float:
    return math.sqrt(math.fsum(float(np.square(array, dtype=np.float64).sum()) for array in arrays))


def chain_of(text: str, settings: Mapping[str, Any] | None = None) -> Chain:
    """Return the chain that a text names, its codecs with those of `settings` that are theirs.

    Raises:
        InputError: no such codec, codecs in an order that makes no sense, or a setting out of range.

    >>> chain_of("svd + int8", {"energy": 0.9, "level": 3}).codecs
    (SVD(energy=0.9), Int8())
    """
    classes = [_codec(name.strip()) for name in text.split("+")]
    stages = [cls.traits.stage for cls in classes]
    if any(later <= earlier for earlier, later in pairwise(stages)):
        raise InputError(f"compression '{text}': name at most one of top-k, svd, then of fp16, int8, then zstd")
    values = settings or {}
    return Chain(tuple(cls(**{key: values[key] for key in settings_of_codec(cls) if key in values}) for cls in classes))


def _codec(name: str) -> type[Codec]:
    if name not in CODECS:
        raise unknown("codec", name, CODECS)
    return CODECS[name]


def settings_of_codec(codec: type[Codec] | Codec) -> dict[str, Any]:
    """Return a codec's settings and their defaults.

    >>> settings_of_codec(SVD)
    {'energy': 0.95}
    """
    return {field.name: field.default for field in fields(codec)}  # type: ignore[arg-type]
