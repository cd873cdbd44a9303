"""Figures of the costs: bytes of each round and node, and their running sums compared with retraining."""

from itertools import accumulate
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedquit.documents import Document
from fedquit.files import explained

COLOURS = {"train": "#2563a8", "forget": "#c0392b", "recover": "#2e8b57", "later": "#8e6c3a", "retrain": "#7f8c8d"}


def draw_all(folder: Path, costs: Document) -> list[Path]:
    """Draw the figures of the costs into `folder`, and return the files; a deployment retrains nothing."""
    figures = {"bytes.png": bytes_of_rounds_and_nodes(costs)}
    if not any("id" in request for request in costs["requests"]):
        figures["bytes-cumulative.png"] = against_retraining(costs)
    for name, figure in figures.items():
        with explained(folder / name):
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(folder / name, dpi=120)
    return [folder / name for name in figures]


def bytes_of_rounds_and_nodes(costs: Document) -> Figure:
    """Draw the bytes on the wire of every round in the order they took place, and of every node."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2)
    _dress(above, "Bytes on the wire, each round", "round, in the order they took place", "MB")
    sizes = [(each["phase"], _wire(each) / 1e6) for each in costs["rounds"]]
    for phase in dict.fromkeys(phase for phase, _ in sizes):
        places = [(i + 1, size) for i, (other, size) in enumerate(sizes) if other == phase]
        above.bar(*zip(*places, strict=True), color=_colour(phase), label=phase, width=0.9)
    above.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _dress(below, "Bytes on the wire, each client", "client", "MB")
    nodes = [each["node"] for each in costs["nodes"]]
    bottom = [0.0] * len(nodes)
    for phase in costs["phases"]:
        heights = [each["wire_bytes"].get(phase, 0) / 1e6 for each in costs["nodes"]]
        below.bar(nodes, heights, bottom=bottom, color=_colour(phase), width=0.9)
        bottom = [a + b for a, b in zip(bottom, heights, strict=True)]
    return figure


def against_retraining(costs: Document) -> Figure:
    """Draw the bytes that have travelled since the request, round by round, and those of retraining."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    _dress(axes, "Bytes on the wire since the request", "rounds since the request", "MB, cumulative")
    paths = {
        "forget and recover": [r for r in costs["rounds"] if r["phase"].split("-")[0] in ("forget", "recover")],
        "retrain": [r for r in costs["rounds"] if r["phase"] == "retrain"],
    }
    for (label, rounds), colour in zip(paths.items(), (COLOURS["recover"], COLOURS["retrain"]), strict=True):
        if rounds:
            sizes = [0.0, *accumulate(_wire(each) / 1e6 for each in rounds)]
            axes.plot(range(len(sizes)), sizes, color=colour, marker="o", markersize=3, label=label)
            axes.annotate(f" {sizes[-1]:.1f} MB", (len(sizes) - 1, sizes[-1]), color=colour, fontsize=8, va="bottom")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _wire(each: Document) -> int:
    return int(each["wire_bytes_down"] + each["wire_bytes_up"])


def _colour(phase: str) -> str:
    return COLOURS.get(phase.split("-")[0], "#4a4a4a")


def _dress(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
