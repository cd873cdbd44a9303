"""The objects that Flower takes a record apart into: which they are, how large, and which are the same as others.

Flower names an object by the SHA-256 of its content: every record, every array, and every chunk of an array's data
(5 MiB at most). All names are equally long, so sizes follow from lengths, and nothing is deflated or hashed with
SHA-256 to be measured: that would take longer than some devices train. The sizes of a model are worked out once, as
models of the same names and shapes have the same. What must be known of each is which of its objects are the same as
others: one pass over its bytes with XXH3 (64 bits, with a new key in each process), at the speed of memory.
"""

import json
import secrets
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, count
from typing import Any, NamedTuple

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_intdigest

from fedquit.strategies.flower_internals import CHUNK_SIZE, HEAD_BODY_DIVIDER, HEAD_VALUE_DIVIDER

NAME = "0" * 64
KEY = secrets.randbits(64)
MOST_KNOWN = 1024

Chunks = tuple[int, ...]
Kind = tuple[str, tuple[int, ...], str, int]
"""An array's dtype, shape, serialisation and bytes: with its name, what its sizes depend on, except repetitions."""


class Part(NamedTuple):
    """Objects that travel together, each once: what they are, and their deflated bytes in the same order.

    The first has all others below it, so where it was seen, they were.

    >>> Part((1, 2), (90, 7)).unseen({2, 3})
    90
    """

    ids: Sequence[int]
    sizes: Sequence[int]

    def unseen(self, seen: set[int]) -> int:
        """Return the bytes of the objects that are not in `seen`, and put them there."""
        if self.ids and self.ids[0] in seen:
            return 0
        if seen.isdisjoint(self.ids):
            size = sum(self.sizes)
        else:
            size = sum(size for identity, size in zip(self.ids, self.sizes, strict=True) if identity not in seen)
        seen.update(self.ids)
        return size


class Measured(NamedTuple):
    """A record.

    Attributes:
        part: the record, which comes first, and all objects below it. Two records have the same first id exactly where
            Flower gives them the same name.
        tree: bytes of its part of the ObjectTree.
        payload: bytes of its content, as Flower's `count_bytes` counts them.
    """

    part: Part
    tree: int
    payload: int


def measure(record: ArrayRecord | ConfigRecord | MetricRecord) -> Measured:
    """Return what a record comes to.

    >>> from flwr.app import Array
    >>> found = measure(ArrayRecord({"w": Array(np.zeros(9)), "b": Array(np.zeros(9))}))
    >>> len(found.part.ids)  # the record, one array, its chunk
    3
    """
    return _arrays(record) if isinstance(record, ArrayRecord) else _numbers(record)


def _arrays(record: ArrayRecord) -> Measured:
    kinds = tuple([(array.dtype, array.shape, array.stype, len(array.data)) for array in record.values()])
    return arrays_form(tuple(record), kinds).measured([digests(array.data) for array in record.values()])


class ArraysForm:
    """What records of arrays come to whose names and kinds are the same; see `arrays_form`."""

    def __init__(self, names: tuple[str, ...], kinds: tuple[Kind, ...]) -> None:
        self._names, self._kinds = names, kinds
        self._hashes = [hash(kind) for kind in kinds]
        self._sizes, self._tree, self._payload = _laid_out(names, kinds, None)

    def measured(self, chunks: Sequence[Chunks]) -> Measured:
        """Return what one comes to, from the digests of its arrays' chunks."""
        own = [hash(array) for array in zip(self._hashes, chunks, strict=True)]
        ids = (hash((self._names, *own)), *own, *chain.from_iterable(chunks))
        if len(ids) == len(set(ids)):
            return Measured(Part(ids, self._sizes), self._tree, self._payload)
        sizes, tree, payload = _laid_out(self._names, self._kinds, _numbered(chunks))
        return Measured(Part(tuple(dict.fromkeys(ids)), sizes), tree, payload)


@lru_cache(maxsize=64)
def arrays_form(names: tuple[str, ...], kinds: tuple[Kind, ...]) -> ArraysForm:
    """Return what records of these arrays come to: their sizes are worked out once."""
    return ArraysForm(names, kinds)


def digests(data: bytes, key: int = KEY) -> Chunks:
    """Return the digest of each chunk of an array's data; `key`: another process's, whose digests they join."""
    if 0 < len(data) <= CHUNK_SIZE:
        return (xxh3_64_intdigest(data, key),)
    view = memoryview(data)
    return tuple(xxh3_64_intdigest(view[start : start + CHUNK_SIZE], key) for start in range(0, len(data), CHUNK_SIZE))


def digests_of_array(head: bytes, array: NDArray[Any], key: int = KEY) -> Chunks:
    """Return the digests of a header and an array after it, which are not put together if they are one chunk.

    >>> digests_of_array(b"ab", np.array([99], dtype=np.uint8)) == digests(b"abc")
    True
    """
    ordered = np.ascontiguousarray(array)
    if len(head) + ordered.nbytes > CHUNK_SIZE:
        return digests(head + ordered.tobytes(), key)
    hashed = xxh3_64(head, key)
    hashed.update(ordered.data)
    return (hashed.intdigest(),)


def _numbered(chunks: Sequence[Chunks]) -> tuple[Chunks, ...]:
    """Number the chunks by what they are: what sizes depend on, where some are the same."""
    numbers: dict[int, int] = {}
    return tuple(tuple(numbers.setdefault(chunk, len(numbers)) for chunk in own) for own in chunks)


@lru_cache(maxsize=64)
def _laid_out(
    names: tuple[str, ...], kinds: tuple[Kind, ...], alike: tuple[Chunks, ...] | None
) -> tuple[tuple[int, ...], int, int]:
    """Return the bytes of the objects of an ArrayRecord (record, arrays, chunks), of its tree, and its payload.

    Args:
        names: of its arrays.
        kinds: what kind each is of.
        alike: the chunks of each by number, where some objects are the same; None: none are.
    """
    lengths = [[min(CHUNK_SIZE, size - start) for start in range(0, size, CHUNK_SIZE)] for *_, size in kinds]
    number = count()
    numbered = alike or [tuple(next(number) for _ in own) for own in lengths]
    arrays: dict[Hashable, int] = {}
    trees: dict[Hashable, int] = {}
    chunks: dict[int, int] = {}
    for kind, own, sizes in zip(kinds, numbered, lengths, strict=True):
        chunks |= {chunk: deflated("ArrayChunk", 0, size) for chunk, size in zip(own, sizes, strict=True)}
        place = {chunk: position for position, chunk in enumerate(dict.fromkeys(own))}
        body = {**dict(zip(("dtype", "shape", "stype"), kind, strict=False)), "arraychunk_ids": [place[c] for c in own]}
        arrays[kind, own] = deflated("Array", len(place), len(json.dumps(body)))
        trees[kind, own] = node([LEAF] * len(place))
    record = deflated("ArrayRecord", len(arrays), references(names))
    payload = sum(map(len, names)) + sum(size for *_, size in kinds)
    return (record, *arrays.values(), *chunks.values()), node(trees.values()), payload


def _numbers(record: ConfigRecord | MetricRecord) -> Measured:
    return measure_numbers(type(record), record)


def measure_numbers(kind: type[ConfigRecord | MetricRecord], values: Mapping[str, Any]) -> Measured:
    """Return what a record of numbers and texts comes to: with the same keys it takes as many bytes as they do.

    >>> measure_numbers(MetricRecord, {"loss": 0.5}) == measure(MetricRecord({"loss": 0.5}))
    True
    """
    text = repr(values)
    key = (kind.__name__, *values, *map(_extent, values.values()))
    if key not in _known:
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        record = kind(dict(values))
        _known[key] = (len(_content(record)), count_bytes(record))
    size, payload = _known[key]
    return Measured(Part((hash((key[0], text)),), (size,)), LEAF, payload)


_known: dict[Hashable, tuple[int, int]] = {}


def _extent(value: object) -> Hashable:
    """Return what the bytes of a value depend on: its kind, and how much there is of it."""
    if type(value) is float:
        return float
    if type(value) is int:
        return value.bit_length()
    return type(value), hash(repr(value))


def _content(record: ConfigRecord | MetricRecord) -> bytes:
    """Return a small record deflated; one that Flower cannot deflate could not be sent, and is counted as text."""
    try:
        return record.deflate()
    except (ValueError, TypeError, OverflowError):
        return repr(record).encode()


def count_bytes(record: ArrayRecord | ConfigRecord | MetricRecord) -> int:
    """Count a record's payload as Flower does; what its own count refuses, such as empty texts, counts deflated.

    >>> count_bytes(MetricRecord({"loss": 0.5}))
    12
    """
    try:
        return record.count_bytes()
    except (ValueError, IndexError):
        return len(record.deflate())


def deflated(kind: str, children: int, body: int) -> int:
    """Return the bytes of a deflated object: a head of its kind, its children's names and its size; and its body."""
    names = children * (len(NAME) + 1) - 1 if children else 0
    return len(kind) + len(HEAD_VALUE_DIVIDER) * 2 + names + len(str(body)) + len(HEAD_BODY_DIVIDER) + body


def references(names: Iterable[str]) -> int:
    """Return the bytes of the body of a record of records or arrays."""
    return len(json.dumps(dict.fromkeys(names, NAME)))


def node(children: Iterable[int]) -> int:
    """Return the bytes of an ObjectTree with children of these sizes."""
    return 2 + len(NAME) + sum(1 + max(1, (child.bit_length() + 6) // 7) + child for child in children)


LEAF = node(())
