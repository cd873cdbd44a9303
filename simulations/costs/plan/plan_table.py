"""A plan as a table for people."""

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from fedquit.documents import Document
from fedquit.simulations.costs.cost_table import size_of


def print_plan(plan: Document) -> None:
    """Print what each method would cost, and what that rests on; `--json` has every figure."""
    console, link = Console(), plan["model"]["link_mbit_per_second"]
    for request in plan["requests"]:
        console.print(_table(request, link))
        for name, found in request["methods"].items():
            if found["why"]:
                console.print(f"{name}: {found['why']}", highlight=False, markup=False)
    exact = (
        "The payload of messages is exact" if plan["exact_payload"] else "Sizes of messages are about those of training"
    )
    console.print(f"{exact}; seconds go by those of its training.", highlight=False, markup=False)


def _table(request: Document, link: float | None) -> Table:
    clients = ", ".join(map(str, request["leavers"]))
    title = f"Request {request['request']}: client(s) {clients}{f'; link: {link:g} Mbit/s' if link else ''}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    columns = ["rounds", "messages", "bytes sent", "seconds", *(["on the link"] if link else [])]
    for name in ("method", *columns, "kept"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=name == "method")
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
    seconds = ("seconds", *(["link_seconds"] if link else []))
    return [
        _range(low["messages"], high["messages"], str),
        _range(low["wire_bytes"], high["wire_bytes"], size_of),
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
