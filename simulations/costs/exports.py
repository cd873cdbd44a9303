"""The costs for other programs: rows as CSV and Parquet, sums as Prometheus text. Rows are never all in memory."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from fedquit.files import explained
from fedquit.strategies.cost_log.cost_rows import Row

COLUMNS = ("run", *Row._fields)
BATCH = 20_000
KINDS = ("payload", "wire", "deduplicated")


def write_csv(path: Path, run: str, rows: Iterable[Row]) -> None:
    """Write the rows as CSV with a header, each with its run."""
    with _whole(path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((run, *row) for row in rows)


def write_parquet(path: Path, run: str, rows: Iterable[Row]) -> None:
    """Write the rows as Parquet, each with its run."""
    import pyarrow as pa
    from pyarrow import parquet

    text, whole, real = pa.dictionary(pa.int32(), pa.string()), pa.int64(), pa.float64()
    types = (text, text, whole, whole, text, whole, whole, whole, real, real, whole)
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
    left = iter(rows)
    with _whole(path) as file, parquet.ParquetWriter(file, schema) as writer:
        while batch := list(islice(left, BATCH)):
            columns = [[run] * len(batch), *zip(*batch, strict=True)]
            arrays = [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` once it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with explained(path):
        try:
            with temporary.open("wb") as file:
                yield file
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def prometheus(run: str, phases: Mapping[str, Mapping[str, Any]]) -> str:
    r"""Return the sums of the phases in Prometheus's text format, for its textfile collector.

    >>> sums = {f"{kind}_bytes_{way}": 5 for kind in KINDS for way in ("down", "up")}
    >>> text = prometheus('a"b', {"train": {**sums, "messages": 2, "rounds": 1, "device_seconds": 0.5}})
    >>> print(text.splitlines()[2])
    fedquit_bytes_total{run="a\"b",phase="train",direction="down",kind="payload"} 5
    """
    lines = _metric("bytes", "Bytes of messages: payload, on the wire, and with identical objects counted once.")
    for phase, sums in phases.items():
        for way in ("down", "up"):
            for kind in KINDS:
                labels = _labels(run=run, phase=phase, direction=way, kind=kind)
                lines.append(f"fedquit_bytes_total{labels} {sums[f'{kind}_bytes_{way}']}")
    help_texts = {
        "messages": "Messages with content.",
        "rounds": "Rounds.",
        "device_seconds": "Processor time of devices.",
    }
    for name, text in help_texts.items():
        lines += _metric(name, text)
        lines += [f"fedquit_{name}_total{_labels(run=run, phase=phase)} {sums[name]}" for phase, sums in phases.items()]
    return "\n".join(lines) + "\n"


def _metric(name: str, text: str) -> list[str]:
    return [f"# HELP fedquit_{name}_total {text}", f"# TYPE fedquit_{name}_total counter"]


def _labels(**labels: str) -> str:
    escaped = {key: text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for key, text in labels.items()}
    return "{" + ",".join(f'{key}="{text}"' for key, text in escaped.items()) + "}"
