"""Pictures of a comparison: the gap to retraining against what it cost, and the groups that fare worst."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fedquit.documents import Document
from fedquit.files import explained
from fedquit.simulations.compare.report.figure_labels import place
from fedquit.simulations.compare.results.row_statistics import pareto_front, points

BLUE, RED, GREY, LIGHT = "#2563a8", "#c0392b", "#7f8c8d", "#d7dcde"
COSTS = {"bytes": ("bytes_share", "bytes"), "seconds": ("seconds_share", "seconds of computing on the devices")}

GAP_TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)


def draw_all(out: Path, document: Document) -> dict[str, str]:
    """Draw every figure into `out`; return what each file shows."""
    rows, reference = document["rows"], document["reference"]
    figures = {
        f"gap-against-{name}.png": gap_against_cost(rows, reference, *COSTS[name])
        for name in COSTS
        if points(rows, COSTS[name][0])
    }
    if any(row["measures"]["worst_class_accuracy"] for row in rows):
        figures["worst-groups.png"] = worst_groups([*rows, reference])
    for name, figure in figures.items():
        with explained(out / name):
            figure.savefig(out / name, dpi=150)
    return {name: figure.axes[0].get_title() for name, figure in figures.items()}


def gap_against_cost(rows: Sequence[Document], reference: Document, cost: str, what: str) -> Figure:
    """Draw each row's mean gap of forget accuracy over its mean cost, with one standard deviation, and the front.

    Args:
        rows: as `aggregate` makes them.
        reference: the retrained models, as a row.
        cost: "bytes_share" or "seconds_share".
        what: the cost, for people.
    """
    figure, axes = _figure(f"Gap to retraining against {what}", (9, 5.5))
    found = points(rows, cost)
    front = pareto_front(found)
    steps = [found[name] for name in front]
    axes.plot(
        *zip(*_stairs(steps), strict=True), color=BLUE, linewidth=1, linestyle="--", zorder=1, label="Pareto front"
    )
    for row in rows:
        if row["name"] in found:
            _point(axes, row, cost, BLUE if row["name"] in front else GREY)
    floor = reference["measures"]["forget_gap"]
    if floor:
        axes.axhspan(0, 100 * floor["mean"], color=LIGHT, zorder=0, label="retrained models from each other")
    axes.axvline(1, color=RED, linewidth=1, zorder=0, label="retraining")
    _scale(axes, found)
    axes.set_xlabel(f"{what}, as a share of retraining's (forgetting and recovery)")
    axes.set_ylabel("distance of forget accuracy from retraining, points (root scale)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, fontsize=8, frameon=False)
    _name(figure, axes, found)
    return figure


def worst_groups(rows: Sequence[Document]) -> Figure:
    """Draw the accuracy of the worst class and of the worst client beside the mean, for each row."""
    shown = [row for row in rows if row["measures"]["worst_class_accuracy"]]
    figure, axes = _figure("Who fares worst after recovery", (8, 1.2 + 0.38 * len(shown)))
    styles = {
        "test_accuracy": ("o", BLUE, "test, all"),
        "worst_class_accuracy": ("s", RED, "test, worst class"),
        "worst_client_accuracy": ("D", GREY, "worst client that stays, own samples"),
    }
    for measure, (marker, colour, label) in styles.items():
        have = [(place, row["measures"][measure]) for place, row in enumerate(shown) if row["measures"][measure]]
        axes.errorbar(
            [100 * found["mean"] for _, found in have],
            [place for place, _ in have],
            xerr=[100 * (found["sd"] or 0.0) for _, found in have],
            fmt=marker, color=colour, markersize=5, linewidth=1, linestyle="none", label=label,
        )  # fmt: skip
    axes.set_yticks(range(len(shown)), [_plain(row["name"]) for row in shown])
    axes.invert_yaxis()
    axes.grid(axis="y", color=LIGHT)
    axes.set_xlabel("accuracy, %")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.9 / figure.get_figheight()), ncols=3, fontsize=8, frameon=False
    )
    return figure


def _stairs(front: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the corners of the line below which nothing lies, in shares and points.

    >>> _stairs([(0.1, 0.5), (0.3, 0.25)])
    [(0.1, 50.0), (0.3, 50.0), (0.3, 25.0)]
    """
    corners: list[tuple[float, float]] = []
    for x, y in front:
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, 100 * y))
    return corners


def _point(axes: Axes, row: Document, cost: str, colour: str) -> None:
    x, y = row["measures"][cost], row["measures"]["forget_gap"]
    left = min(x["sd"] or 0.0, 0.99 * x["mean"])  # what is spent is never below 0, nor is the size of a gap
    down = min(y["sd"] or 0.0, y["mean"])
    axes.errorbar(
        x["mean"], 100 * y["mean"],
        xerr=[[left], [x["sd"] or 0.0]], yerr=[[100 * down], [100 * (y["sd"] or 0.0)]],
        fmt="o", color=colour, ecolor=LIGHT if colour == GREY else colour, elinewidth=1, markersize=6, zorder=2,
    )  # fmt: skip


def _scale(axes: Axes, found: Mapping[str, tuple[float, float]]) -> None:
    """Show costs on a logarithmic scale, in per cent, where all are above 0, and gaps so that small ones show."""
    axes.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), np.square))
    axes.set_yticks(GAP_TICKS)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0, max(1.0, 1.1 * float(axes.dataLim.y1)))
    if min(x for x, _ in found.values()) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.margins(x=0.08)


def _name(figure: Figure, axes: Axes, found: Mapping[str, tuple[float, float]]) -> None:
    """Write each row's name near its point, with a line to it where that is not at once clear."""
    figure.draw_without_rendering()  # only now is it known where things are
    figure.set_layout_engine("none")
    halo = [withStroke(linewidth=2.5, foreground="white")]
    texts = [figure.text(0, 0, _plain(name), fontsize=8, va="bottom", path_effects=halo) for name in found]
    at = [(float(x), float(y)) for x, y in axes.transData.transform([(x, 100 * y) for x, y in found.values()])]
    boxes = [text.get_window_extent() for text in texts]
    frame = axes.get_window_extent()
    corners = place(at, [(box.width, box.height) for box in boxes], (frame.x0, frame.y0, frame.x1, frame.y1))
    pixel = figure.dpi_scale_trans.inverted()
    for text, box, point, (left, bottom) in zip(texts, boxes, at, corners, strict=True):
        text.set_transform(figure.dpi_scale_trans)
        text.set_position(tuple(pixel.transform((left, bottom))))
        edge = (min(max(point[0], left), left + box.width), min(max(point[1], bottom), bottom + box.height))
        line = pixel.transform([point, edge])
        figure.add_artist(Line2D(*line.T, transform=figure.dpi_scale_trans, color=GREY, linewidth=0.5, zorder=1))


def _plain(name: str) -> str:
    """Return a name as it is: matplotlib takes what is between dollars for mathematics."""
    return name.replace("$", r"\$")


def _figure(title: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
