"""The verdict as a picture: each measure of the model in the interval where one more retrained model would be."""

from typing import TYPE_CHECKING

from fedquit.documents import Document
from fedquit.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED, GREY, LIGHT = "#2563a8", "#c0392b", "#7f8c8d", "#d7dcde"


def verdict_figure(verdict: Document | None) -> "Figure":
    """Draw each measure as its distance from the expected value, in half widths of its prediction interval.

    Args:
        verdict: of a report or an audit.

    Raises:
        InputError: the verdict compared nothing, as with fewer references than it needs.
    """
    if not verdict or not verdict.get("measures"):
        reason = f": {verdict['reason']}" if verdict else ""
        raise InputError(f"the verdict has no measure to draw{reason}")
    from matplotlib.figure import Figure

    measures, control = verdict["measures"], verdict["control"] or {}
    figure = Figure(figsize=(7, 1.6 + 0.5 * len(measures)), layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"Verdict: {verdict['outcome']}", fontsize=11)
    axes.axvspan(-1, 1, color=LIGHT, zorder=0, label="one more retrained model")
    for models, marker, colour, label in ((measures, "o", BLUE, "model"), (control, "x", RED, "control")):
        places = [(scaled(models[name]["value"], held), row) for row, (name, held) in enumerate(measures.items())
                  if name in models]  # fmt: skip
        if places:
            axes.scatter(*zip(*places, strict=True), marker=marker, color=colour, label=label, zorder=2)
    axes.set_yticks(range(len(measures)), [name.replace("_", " ") for name in measures])
    axes.set_ylim(len(measures) - 0.5, -0.5)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel("distance from the retrained models' mean, in half widths of the prediction interval")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
    return figure


def scaled(value: float, held: Document) -> float:
    """Return where a value is in an interval: 0 in its middle, 1 and -1 at its ends.

    >>> scaled(0.75, {"low": 0.5, "high": 1.0}), scaled(1.25, {"low": 0.5, "high": 1.0})
    (0.0, 2.0)
    """
    middle, half = (held["low"] + held["high"]) / 2, (held["high"] - held["low"]) / 2
    return float((value - middle) / half) if half else float(value != middle)
