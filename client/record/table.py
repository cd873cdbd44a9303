"""A device's record as tables for its owner."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_record(document: Mapping[str, Any], rounds: int | None = None) -> None:
    """Print what `fedquit record --json` says, with the last `rounds` rounds (None: all)."""
    console = Console(highlight=False)
    shown = document["rounds"] if rounds is None else document["rounds"][-rounds:]
    told = f"{len(document['rounds'])} rounds" + (
        f", the last {len(shown)}" if len(shown) < len(document["rounds"]) else ""
    )
    console.print(f"device '{document['device']}', number {document['number']} of '{document['federation']}': {told}")
    rows: list[tuple[Any, ...]]
    if shown:
        columns = ("when", "run", "phase", "round", "samples", "their digest", "model that came", "model that went")
        rows = [
            (_when(each["at"]), each["run"], each["phase"], each["number"], each["num_examples"],
             each["samples_digest"][:12], each["model_in"][:12], each["model_out"][:12])
            for each in shown
        ]  # fmt: skip
        console.print(_table(columns, rows))
    if document["requests"]:
        rows = [
            (each["request"][:12], each["granularity"], len(each["samples"]) or ", ".join(each["labels"]) or "all",
             _when(each["marked_at"]), _when(each["retired_at"]))
            for each in document["requests"]
        ]  # fmt: skip
        console.print(_table(("request", "of", "what", "marked", "retired"), rows))
    console.print(f"{len(document['retired'])} samples are retired: they do not train again on this device")
    for each in document["waiting"]:
        what = f"{each['samples']} samples" if each["samples"] else "all of this device"
        console.print(f"waits since {_when(each['put_at'])} for the server to take it: forget {what}")


def _table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _when(at: float | None) -> str:
    return "-" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
