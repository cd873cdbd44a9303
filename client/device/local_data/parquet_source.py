"""A Parquet file with a column of inputs and one of labels, read a few rows at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedquit.client.device.local_data.image_source import image_item
from fedquit.client.device.local_data.item import Item
from fedquit.client.device.local_data.npz_source import rows
from fedquit.errors import InputError

INPUTS = ("image", "img", "input", "inputs", "x")
LABELS = ("label", "labels", "class", "y")
ROWS = 64


class Table:
    """Columns `image` (encoded images, bare or as `{bytes, path}`) or `x` (lists of numbers), and `label` or `y`."""

    def __init__(self, path: Path) -> None:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        self._path = path
        try:
            self._file = ParquetFile(path, memory_map=True)
        except (OSError, ArrowException) as error:
            raise InputError(f"cannot read {path} as Parquet: {error}") from error
        names = self._file.schema_arrow.names
        self._columns = [_first(path, "inputs", INPUTS, names), _first(path, "labels", LABELS, names)]

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def __iter__(self) -> Iterator[Item]:
        from pyarrow import ArrowException

        number = 0
        try:
            for batch in self._file.iter_batches(batch_size=ROWS, columns=self._columns):
                yield from self._items(batch, number)
                number += len(batch)
        except (OSError, ArrowException) as error:
            raise InputError(f"{self._path}: cannot read row {number} and those after it ({error})") from error

    def _items(self, batch: Any, first: int) -> Iterator[Item]:
        inputs, labels = (batch.column(name) for name in self._columns)
        where = f"{self._path}: {self._columns[0]}"
        if inputs.null_count or labels.null_count:
            raise InputError(
                f"{self._path}: an input or a label of rows {first} to {first + len(batch) - 1} is missing"
            )
        texts = [str(label) for label in labels.to_pylist()]
        encoded = _encoded(inputs)
        if encoded is None:
            yield from rows(_numbers(inputs, where), np.array(texts), first, where)
            return
        for number, (content, label) in enumerate(zip(encoded, texts, strict=True), first):
            if content is None:
                raise InputError(f"{where}: row {number} has no bytes, only a path; store the images in the file")
            yield image_item(str(number), label, content, f"{where}: row {number}")


def _first(path: Path, what: str, known: tuple[str, ...], names: list[str]) -> str:
    for name in known:
        if name in names:
            return name
    raise InputError(f"{path} has no column of {what}: call it {known[0]} (it has {', '.join(names)})")


def _encoded(inputs: Any) -> list[bytes | None] | None:
    """Return encoded images, bare or as `{bytes, path}`; None: the column holds something else."""
    from pyarrow import types

    if types.is_struct(inputs.type) and inputs.type.get_field_index("bytes") >= 0:
        inputs = inputs.field("bytes")
    if types.is_binary(inputs.type) or types.is_large_binary(inputs.type):
        return list(inputs.to_pylist())
    return None


def _numbers(inputs: Any, where: str) -> NDArray[Any]:
    """Return lists of numbers, nested or not, as one array of their own type."""
    from pyarrow import types

    kind = inputs.type
    while hasattr(kind, "value_type"):
        kind = kind.value_type
    try:
        if types.is_integer(kind) or types.is_floating(kind):
            return np.array(inputs.to_pylist(), dtype=kind.to_pandas_dtype())
    except ValueError:
        pass
    raise InputError(f"{where} holds neither encoded images nor lists of numbers of one length ({inputs.type})")
