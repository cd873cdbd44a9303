"""Reads back what a run told TensorBoard, MLflow and W&B, each from its own files."""

import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Scalars = dict[str, dict[int, float]]
BLOCK, HEADER = 32768, 7
FULL, FIRST, LAST = 1, 2, 4


def tensorboard_scalars(folder: Path) -> Scalars:
    """Return the scalars of a run's event files: name -> step -> value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {name: {each.step: each.value for each in read.Scalars(name)} for name in read.Tags()["scalars"]}


def tensorboard_tags(folder: Path, kind: str) -> set[str]:
    """Return the names of what else is there: "images", or "tensors" (texts)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return set(read.Tags()[kind])


def mlflow_scalars(client: Any, run_id: str) -> Scalars:
    """Return the metrics of a run: name -> step -> value."""
    names = client.get_run(run_id).data.metrics
    return {name: {each.step: each.value for each in client.get_metric_history(run_id, name)} for name in names}


def wandb_records(folder: Path) -> Iterator[Any]:
    """Yield the records of a run's offline file, a log in LevelDB's format of W&B's protobuf messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        content, at, parts = file.read_bytes(), HEADER, b""
        while at + HEADER <= len(content):
            if BLOCK - at % BLOCK < HEADER:
                at += BLOCK - at % BLOCK
                continue
            _, length, kind = struct.unpack_from("<IHB", content, at)
            piece = content[at + HEADER : at + HEADER + length]
            at += HEADER + length
            parts = piece if kind in (FULL, FIRST) else parts + piece
            if kind in (FULL, LAST):
                yield Record.FromString(parts)


def wandb_scalars(folder: Path) -> Scalars:
    """Return what was logged by round: name -> round -> value."""
    import json

    found: Scalars = defaultdict(dict)
    for record in wandb_records(folder):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            values = {name: json.loads(text) for name, text in items.items()}
            for name, value in values.items():
                if isinstance(value, int | float) and not name.startswith("_") and "round" in values:
                    found[name][int(values["round"])] = float(value)
    return dict(found)


def wandb_said(folder: Path, kind: str) -> dict[str, str]:
    """Return what the last word is on every key of "config" or "summary", as JSON."""
    found: dict[str, str] = {}
    for record in wandb_records(folder):
        name = record.WhichOneof("record_type")
        updates = record.run.config.update if name == "run" and kind == "config" else ()
        if name == kind:
            updates = getattr(record, kind).update
        found |= {item.key or "/".join(item.nested_key): item.value_json for item in updates}
    return found
