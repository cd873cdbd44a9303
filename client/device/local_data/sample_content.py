r"""What a sample is, in whatever form it is stored: digests that a lossless change of its form does not change.

A picture, of more than one row and one column, is its levels 0..255 in the order channel, row, column; of three equal
channels one. uint8 values are levels. Floating-point values are read on each scale on which all of them lie, 0..255,
0..1 or -1..1, as the usual formulas give these in float16, float32 or float64. So 0s and 1s have two readings, and
values on no scale are themselves. A row of numbers is its numbers: as they are, and as training sees them (uint8 x as
x / 127.5 - 1), both float32, little-endian. Two samples are one where any reading is:

    ["v2", "levels", COUNT]\n      and the levels        a picture
    ["v2", "values", COUNT]\n      and float32 values    a picture on no scale
    ["v2", "numbers", COUNT]\n, ["v2", "seen", COUNT]\n  and float32 values    a row

Nothing but the device itself compares them, for decoders may differ. Size is no part of it, as a picture may be stored
as one row. Records of before have the first version, which knew a sample in one form only: `Content.former`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedquit.client.device.local_data.sample_digest import content_digest, line, sample_digest
from fedquit.unlearning.samples import normalised

VERSION = "v2"
Values = NDArray[Any]
Formula = Callable[[Values], Values]
TYPES = (np.float64, np.float32, np.float16)
SCALES = {"0..255": (0.0, 1.0), "0..1": (0.0, 255.0), "-1..1": (1.0, 127.5)}
"""What is added to a value, and what the sum is multiplied by, to give a level."""
FAR = 0.4
"""Further than this from a level no formula in any type ends; what is nearer is looked at exactly."""
FORMULAS: dict[str, tuple[Formula, ...]] = {
    "0..255": (lambda x: x,),
    "0..1": (lambda x: x / 255, lambda x: x * (1 / 255)),
    "-1..1": (
        lambda x: x / 127.5 - 1,
        lambda x: (x / 255 - 0.5) / 0.5,
        lambda x: x / 255 * 2 - 1,
        lambda x: x * (1 / 127.5) - 1,
    ),
}
"""From levels to values, the commonest first."""


@dataclass(frozen=True, eq=False)
class Content:
    """One input as it lies there, decoded.

    Attributes:
        values: [C, H, W], uint8 or float32.
        shaped: whether it has the shape of a model's inputs; if not, one row may be a whole picture.

    >>> import torch
    >>> square = torch.tensor([[[0, 51], [102, 255]]], dtype=torch.uint8)
    >>> Content(square).digests == Content(square / 255).digests == Content(square.expand(3, 2, 2)).digests
    True
    """

    values: Tensor
    shaped: bool = True

    @cached_property
    def digests(self) -> frozenset[bytes]:
        """The digests of each reading; two inputs are one if they have one in common."""
        values = self.values.numpy()
        row = 1 in values.shape[1:]
        found = list[bytes]()
        if not row or not self.shaped:
            found += [_digest("levels" if each.dtype == np.uint8 else "values", each) for each in _readings(values)]
        if row:
            found += [_digest("numbers", values), _digest("seen", normalised(self.values).numpy())]
        return frozenset(found)

    def former(self, label: str) -> frozenset[bytes]:
        """Return the digests that the first version has of it, in each form that the same input may have had there."""
        return frozenset(
            digest
            for form in _former(self.values.numpy())
            for digest in (content_digest(form), sample_digest(form, label))
        )


def _digest(kind: str, values: Values) -> bytes:
    little = values if kind == "levels" else values.astype("<f4") + np.float32(0)  # no -0.0
    return hashlib.sha256(line([VERSION, kind, values.size]) + np.ascontiguousarray(little).tobytes()).digest()


def _readings(values: Values) -> list[Values]:
    """Return the levels that values may stand for, uint8; or else the values themselves, float32. All of one axis."""
    found = list[Values]()
    for scale in SCALES:
        levels = values if values.dtype == np.uint8 else _levels(values, scale)
        if levels is not None:
            found.append(_of_one_channel(levels))
        if values.dtype == np.uint8:
            break
    return found or [_of_one_channel(values)]


def _of_one_channel(values: Values) -> Values:
    """Return one of three equal channels, which lie one after the other; all else as it is. One axis."""
    flat = values.ravel()
    if flat.size % 3:
        return flat
    first, second, third = flat.reshape(3, -1)
    return first if np.array_equal(first, second) and np.array_equal(first, third) else flat


def _levels(values: Values, scale: str) -> Values | None:
    """Return the levels of values on a scale; None: one of them is not on it."""
    shift, factor = SCALES[scale]
    exact = (values.astype(np.float64) + shift) * factor
    guess = np.clip(np.rint(exact), 0, 255)
    if np.abs(exact - guess).max() > FAR:
        return None
    levels, on = guess.astype(np.uint8), np.zeros(values.shape, dtype=np.bool_)
    for table in _tables(scale):
        on |= table[levels] == values
    return levels if bool(on.all()) else None


@cache
def _tables(scale: str) -> Values:
    """Return what the formulas in use make of the levels 0 to 255 on a scale, float32 [K, 256]."""
    made = [each.astype(np.float32) for each in _scaled(np.arange(256), scale, FORMULAS[scale])]
    return np.unique(np.stack(made), axis=0)


def _scaled(levels: Values, scale: str, formulas: Iterable[Formula]) -> Iterator[Values]:
    """Yield levels on a scale, computed in each type and stored in one that is not wider."""
    for formula in formulas:
        for number, computed in enumerate(TYPES if scale != "0..255" else TYPES[:1]):
            value = formula(levels.astype(computed))
            yield from (value.astype(stored) for stored in TYPES[number:])


def _former(values: Values) -> Iterator[Values]:
    """Yield the arrays that the input may have been stored as, and the decoded image that it may have been."""
    _, height, width = values.shape
    if values.dtype != np.uint8:
        yield from _shapes(values)
        yield from _shapes(values.astype(np.float64))
        if np.array_equal(half := _half(values), values):
            yield from _shapes(half)
    for flat in _readings(values):
        if flat.dtype != np.uint8:
            continue
        grey = flat.reshape(-1, height, width)
        colour = np.broadcast_to(grey, (3, height, width)) if len(grey) in (1, 3) else grey
        for levels in (grey, colour):
            yield from _shapes(levels)
            for scale, formulas in FORMULAS.items():
                for form in _scaled(levels, scale, formulas[:2]):
                    yield from _shapes(form)


def _half(values: Values) -> Values:
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


def _shapes(values: Values) -> Iterator[Values]:
    """Yield an input [C, H, W] in each shape that it may have in an array of inputs."""
    yield from (values, values.reshape(-1), values.transpose(1, 2, 0))
    if len(values) == 1:
        yield values[0]
