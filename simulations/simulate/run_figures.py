"""Figures of a run: accuracy over its rounds, the clients' labels, and the relative cost of forgetting."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedquit.client.data.build_data_and_model import dataset_of, split
from fedquit.client.data.forget_sets import askers
from fedquit.client.data.partition import label_counts
from fedquit.files import explained
from fedquit.server.run.run_folder import RunFolder
from fedquit.server.run.run_state import State

SHOWN = 60
"""Clients in the figure of labels at most: each is a bar a class, and thousands take minutes and show nothing."""
BLUE, RED, GREY, GREEN = "#2563a8", "#c0392b", "#7f8c8d", "#2e8b57"


def draw_all(folder: RunFolder, state: State, document: dict[str, Any]) -> list[Path]:
    """Draw every figure into the run's folder and return the files."""
    drawn = {"accuracy.png": accuracy_over_rounds(state), "labels.png": label_distribution(folder)}
    if document["ratios_to_retraining"]:
        drawn["cost.png"] = cost_against_retraining(document)
    files = []
    for name, figure in drawn.items():
        files.append(folder.path / name)
        with explained(files[-1]):
            figure.savefig(files[-1], dpi=120)
    return files


def accuracy_over_rounds(state: State) -> Figure:
    """Draw held-out and forget accuracy over the rounds, with the rounds of forgetting marked."""
    figure, axes = _figure("Accuracy over rounds", "round", "accuracy")
    path = [r for r in state.rounds if r.phase.startswith(("train", "forget", "recover", "later"))]
    styles = {"holdout_accuracy": (BLUE, "held-out"), "forget_accuracy": (RED, "forgotten clients' samples")}
    for measure, (colour, label) in styles.items():
        points = [(i + 1, r.measures[measure]) for i, r in enumerate(path) if measure in r.measures]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, label=label, marker="o", markersize=3)
        retrained = [r.measures[measure] for r in state.of("retrain") if measure in r.measures]
        if retrained:
            axes.axhline(retrained[-1], color=colour, linestyle=":", linewidth=1, label=f"{label}, retrained")
    for moment in (i for i, r in enumerate(path) if r.phase.startswith("forget")):
        axes.axvline(moment + 0.5, color=GREY, linestyle="--")
        axes.annotate("forget", (moment + 0.5, 0.02), xycoords=("data", "axes fraction"), rotation=90, color=GREY,
                      ha="right")  # fmt: skip
    axes.set_ylim(0, 1.02)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, fontsize=8, frameon=False)
    return figure


def label_distribution(folder: RunFolder) -> Figure:
    """Draw how many samples of each class each client holds; those who asked to be forgotten are named in red.

    Of more than `SHOWN` clients it shows some, and says so.
    """
    settings = folder.settings()
    data, parts = dataset_of(settings), split(settings.key())
    asked = {client for request in range(settings.num_requests) for client in askers(settings, request)}
    shown = shown_clients(len(parts), asked)
    counts = label_counts(data.train.labels.numpy(), [parts[client] for client in shown], data.num_classes)
    some = "" if len(shown) == len(parts) else f", {len(shown)} of {len(parts):,}"
    figure, axes = _figure("Samples of each class", f"client{some}", "samples")
    left = counts[:, 0] * 0
    for label in range(data.num_classes):
        colour = mpl.colormaps["tab20"](label % 20)
        axes.bar(range(len(counts)), counts[:, label], bottom=left, color=colour, width=0.8, label=str(label))
        left = left + counts[:, label]
    named = [place for place, client in enumerate(shown) if len(shown) <= 30 or client in asked]
    if named and (len(shown) <= 30 or some):
        axes.set_xticks(named, [str(shown[place]) for place in named])
        for place, tick in zip(named, axes.get_xticklabels(), strict=True):
            if shown[place] in asked:
                tick.set_color(RED)
                tick.set_fontweight("bold")
    if data.num_classes <= 20:
        axes.legend(title="class", fontsize=7, ncols=2, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def shown_clients(clients: int, asked: Collection[int]) -> list[int]:
    """Return which clients a figure shows: all, or some of those who asked and others at even distances.

    >>> shown_clients(3, {1}), len(shown_clients(10_000, {7})), 7 in shown_clients(10_000, {7})
    ([0, 1, 2], 60, True)
    """
    if clients <= SHOWN:
        return list(range(clients))
    those = sorted(asked)[: SHOWN // 2]
    others = np.linspace(0, clients - 1, SHOWN - len(those), dtype=int).tolist()
    return sorted({*those, *others})


def cost_against_retraining(document: dict[str, Any]) -> Figure:
    """Draw bytes, rounds and seconds of forgetting and recovery as shares of retraining."""
    figure, axes = _figure("Cost of forgetting and recovery, compared with retraining", "share of retraining", "")
    phases = document["phases"]
    names = ("bytes", "rounds", "seconds")
    start = [0.0] * len(names)
    for phase, colour in (("forget", RED), ("recover", GREEN)):
        shares = [_amount(phases[phase], name) / _amount(phases["retrain"], name) for name in names]
        axes.barh(names, shares, left=start, color=colour, label=phase, height=0.5)
        start = [a + b for a, b in zip(start, shares, strict=True)]
    for row, share in enumerate(start):
        axes.text(share, row, f" {share:.2f}", va="center", fontsize=9)
    axes.axvline(1, color=GREY, linestyle="--")
    axes.set_xlim(0, max(1.1, *(share * 1.1 for share in start)))
    axes.invert_yaxis()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, fontsize=8, frameon=False)
    return figure


def _amount(cost: dict[str, Any] | None, name: str) -> float:
    if cost is None:
        return 0.0
    return float(cost["bytes_down"] + cost["bytes_up"] if name == "bytes" else cost[name])


def _figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
