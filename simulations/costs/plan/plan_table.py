"""A plan as a table for people."""

from collections.abc import Callable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from fedquit.documents import Document
from fedquit.simulations.costs.cost_table import size_of

MOST_WIDTH = 200


def print_plan(plan: Document) -> None:
    """Print what each method would cost, and what that rests on."""
    console, link = Console(), plan["model"]["link_mbit_per_second"]
    for request in plan["requests"]:
        table = _table(request, link)
        needed = Measurement.get(console, console.options.update(max_width=MOST_WIDTH), table).maximum
        console.width = max(console.width, needed)
        console.print(table)
        for name, found in request["methods"].items():
            if found["why"]:
                console.print(f"{name}: {found['why']}", highlight=False, markup=False)
    exact = (
        "The payload of messages is exact" if plan["exact_payload"] else "Sizes of messages are about those of training"
    )
    console.print(f"{exact}; seconds go by those of its training.", highlight=False, markup=False)


def _table(request: Document, link: float | None) -> Table:
    clients = ", ".join(map(str, request["leavers"]))
    table = Table(title=f"Request {request['request']}: client(s) {clients}", title_justify="left", box=SIMPLE_HEAD)
    columns = ["rounds", "messages", "down", "up", "wire", "device s", "seconds"]
    for name in ("method", *columns, *([f"at {link:g} Mbit/s"] if link else []), "kept"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for name, found in request["methods"].items():
        if not found["known"]:
            table.add_row(name, "not estimated")
            continue
        recover, total = found["recover"], found["total"]
        rounds = _range(recover["at_least"], recover["at_most"], str)
        shown = _shown(total["at_least"], total["at_most"], link)
        table.add_row(name, rounds, *shown, size_of(found["stored"]["bytes_at_most"]))
    whole = request["retraining"]
    table.add_section()
    table.add_row("retraining", str(whole["rounds"]), *_shown(whole, whole, link))
    return table


def _shown(low: Document, high: Document, link: float | None) -> list[str]:
    seconds = ("device_seconds", "seconds", *(["link_seconds"] if link else []))
    return [
        _range(low["messages"], high["messages"], str),
        *(_range(low[key], high[key], size_of) for key in ("payload_bytes_down", "payload_bytes_up", "wire_bytes")),
        *(_range(low[key], high[key], _seconds) for key in seconds),
    ]


def _range(low: Any, high: Any, shown: Callable[[Any], str]) -> str:
    """Return both ends, their unit once if it is the same.

    >>> _range(1_500_000, 2_000_000, size_of), _range(1, 1, str)
    ('1.5-2.0 MB', '1')
    """
    one, other = shown(low), shown(high)
    if one == other:
        return one
    unit = other.partition(" ")[2]
    return f"{one.removesuffix(f' {unit}') if unit else one}-{other}"


def _seconds(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds:.1f}"
