"""A cost log's sums as a table for people."""

from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedquit.documents import Document
from fedquit.server.run.phases import nth

Shown = tuple[str, Callable[[Document], str]]
NAMES = {"wire_bytes": "bytes", "rounds": "rounds", "seconds": "seconds", "device_seconds": "device seconds"}

ROWS = (
    ("rounds", lambda cost: str(cost["rounds"])),
    ("messages", lambda cost: str(cost["messages"])),
    ("payload", lambda cost: size_of(cost["payload_bytes"])),
    ("wire, down", lambda cost: size_of(cost["wire_bytes_down"])),
    ("wire, up", lambda cost: size_of(cost["wire_bytes_up"])),
    ("deduplicated", lambda cost: size_of(cost["deduplicated_bytes"])),
    ("seconds", lambda cost: f"{cost['seconds']:.1f}"),
    ("device seconds", lambda cost: f"{cost['device_seconds']:.1f}"),
    ("network energy", lambda cost: f"{cost['joules']:.0f} J"),
)
BESIDE = 5
"""Phases that are side by side in 80 columns."""
SAVED = (("saved by codecs", lambda cost: size_of(cost["saved_bytes"])),)


def print_costs(costs: Document) -> None:
    """Print what each phase cost, what each request cost compared with retraining, and what the prices assume."""
    console, link = Console(), costs["model"]["link_mbit_per_second"]
    phases = list(costs["phases"].items())
    saved = SAVED if any(cost["saved_bytes"] for _, cost in phases) else ()
    rows = (*ROWS, *saved, *((_at(link),) if link else ()))
    for first in range(0, len(phases), BESIDE):
        title = f"What {costs['run']} cost" if first == 0 else None
        console.print(_table(phases[first : first + BESIDE], rows, title))
    for number, request in enumerate(costs["requests"]):
        times = request["retraining_costs_times"]
        if any(times.values()):
            shown = ", ".join(f"{label} {_times(times[name])}" for name, label in NAMES.items() if times[name])
            asked = f"{nth('forget', number)} and {nth('recover', number)}"
            if "id" in request:
                asked = f"request {request['id'][:12]} ({request['method']})"
            console.print(f"Cost of retraining, as a multiple of {asked}: {shown}", highlight=False)
    if costs["incomplete"]:
        console.print(
            f"[bold]The cost log is incomplete[/bold] for {', '.join(costs['incomplete'])}: "
            "an older fedquit began the run",
            highlight=False,
        )


def _table(phases: Sequence[tuple[str, Document]], rows: Sequence[Shown], title: str | None) -> Table:
    """Return a table of phases side by side."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    for name, _ in phases:
        table.add_column(name, justify="right")
    for label, shown in rows:
        table.add_row(label, *(shown(cost) for _, cost in phases))
    return table


def _times(factor: float) -> str:
    return f"{factor:.1f}" if factor >= 0.1 else f"{factor:.1g}"


def _at(link: float) -> Shown:
    return f"at {link:g} Mbit/s", lambda cost: f"{cost['link_seconds']:.1f} s"


def size_of(count: int) -> str:
    """Return a number of bytes for people.

    >>> size_of(999), size_of(12_345_678)
    ('999 B', '12.3 MB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
