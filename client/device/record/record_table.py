"""A device's record as tables for its owner."""

import time
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from fedquit.client.requests.piggyback import rides
from fedquit.documents import counted

WIDTH = 80
"""Least width of a table, in characters: a narrower terminal wraps its lines, and no digest is cut off."""


def print_record(document: Mapping[str, Any], rounds: int | None = None) -> None:
    """Print what `fedquit record --json` says, with the last `rounds` rounds (None: all)."""
    shown = document["rounds"] if rounds is None else document["rounds"][-rounds:]
    some = f", the last {len(shown)}" if len(shown) < len(document["rounds"]) else ""
    count = f"{counted(len(document['rounds']), 'round')}{some}"
    click.echo(f"device '{document['device']}', number {document['number']} of '{document['federation']}': {count}")
    _print_table(
        ("when (UTC)", "phase", "round", "samples", "digest", "model in", "model out"),
        [
            (_when(each["at"]), each["phase"], each["number"], each["num_examples"],
             *(each[key][:10] for key in ("samples_digest", "model_in", "model_out")))
            for each in shown
        ],
    )  # fmt: skip
    _print_table(
        ("request", "about", "which", "marked (UTC)", "retired (UTC)"),
        [
            (each["request"][:10], each["granularity"], len(each["samples"]) or ", ".join(each["labels"]) or "all",
             _when(each["marked_at"]), _when(each["retired_at"]))
            for each in document["requests"]
        ],
    )  # fmt: skip
    verb = "is retired: it does" if len(document["retired"]) == 1 else "are retired: they do"
    click.echo(f"{counted(len(document['retired']), 'sample')} {verb} not train again on this device")
    for each in document["waiting"]:
        what = counted(each["samples"], "sample") if each["samples"] else "all of this device"
        why = f"was refused by the server ({each['refused']})" if each["refused"] else "waits for the server to take it"
        if not rides(each["signings"], each["refused"] or ""):
            why = why if each["refused"] else "was sent and not taken; `fedquit forget` says why"
        click.echo(f"asked on {_when(each['put_at'])} UTC, {why}: forget {what}")


def _print_table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row))
    if rows:
        Console(highlight=False, width=max(WIDTH, Console().width)).print(table)


def _when(at: float | None) -> str:
    return "-" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))
