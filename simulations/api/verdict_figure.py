"""The verdict as a picture: each measure of the model in the interval where one more retrained model would be."""

from typing import TYPE_CHECKING

from fedquit.documents import Document
from fedquit.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED, GREY, LIGHT = "#2563a8", "#c0392b", "#7f8c8d", "#d7dcde"


def verdict_figure(verdict: Document | None) -> "Figure":
    """Draw each measure as its distance from the expected value, in reaches of its prediction interval on that side.

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
    axes.set_xlabel("distance from the retrained models' mean, relative to the prediction interval's end on that side")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
    return figure


def scaled(value: float, held: Document) -> float:
    """Return where a value is in an interval: 0 where it was expected, 1 and -1 at the ends, which may differ in reach.

    >>> held = {"low": 0.5, "expected": 0.75, "high": 1.75}
    >>> scaled(0.75, held), scaled(0.25, held), scaled(1.25, held)
    (0.0, -2.0, 0.5)
    """
    apart = value - held["expected"]
    reach = held["high"] - held["expected"] if apart > 0 else held["expected"] - held["low"]
    return float(apart / reach) if reach else float(apart != 0)
