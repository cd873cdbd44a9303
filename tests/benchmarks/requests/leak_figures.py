"""The figures of what requests reveal: the game by size, noise against recovery, reconstructions beside the truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedquit.documents import Document

PLAIN = {"Software": None}
"""No version of matplotlib in a file, so that the same figures give the same bytes."""
NOISE = "noise, as a multiple of the clip (left: none)"


def draw_games(runs: Mapping[str, Mapping[int, Document]], file: Path) -> None:
    """Draw the AUC of the game for FedQUIT, by number of samples, with intervals.

    Args:
        runs: "data, model" -> size of the request -> its cell.
        file: to write.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(runs), figsize=(1 + 3.2 * len(runs), 3.2), squeeze=False, sharey=True)
    for axis, (name, cells) in zip(axes[0], runs.items(), strict=True):
        sizes = sorted(cells)
        for shift, (who, label) in enumerate(
            (("server", "server; devices, direct"), ("device, deferred", "devices, deferred"),
             ("device, deferred, control", "nothing forgotten"))
        ):  # fmt: skip
            found = [cells[size][who]["games"]["same_class"]["replay"] for size in sizes]
            places = [size * 1.08**shift for size in sizes]
            axis.errorbar(places, [one["auc"] for one in found], _spread(found), marker="o", capsize=3, label=label)
        axis.axhline(0.5, color="grey", linestyle=":")
        axis.set(xscale="log", xlabel="samples in the request", title=name, ylim=(0.15, 1.05))
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
    axes[0][0].set_ylabel("which of two candidate sets, AUC")
    axes[0][0].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(file, dpi=90, metadata=PLAIN)
    plt.close(figure)


def draw_curve(noises: Sequence[Document], file: Path) -> None:
    """Draw the AUC of the game, and what recovery costs, against the noise."""
    import matplotlib.pyplot as plt

    figure, (games, costs) = plt.subplots(1, 2, figsize=(8.5, 3.2))
    scale = [max(cell["noise"], 1e-3) for cell in noises]  # none at the left edge
    for who in ("server", "device, deferred"):
        found = [cell["games"][who] for cell in noises]
        games.errorbar(scale, [one["auc"] for one in found], _spread(found), marker="o", capsize=3, label=who)
    games.plot(scale, [cell["bound"] for cell in noises], color="grey", linestyle="--", label="bound, any attack")
    games.axhline(0.5, color="grey", linestyle=":")
    games.set(xscale="log", xlabel=NOISE, ylabel="game, AUC", ylim=(0.2, 1.05))
    games.legend(fontsize=7)
    for number in range(len(noises[0]["recovery"])):
        ran = [cell["recovery"][number] for cell in noises]
        costs.plot(scale, [one["rounds"] for one in ran], marker="o", label=f"client {number}")
    costs.set(xscale="log", xlabel=NOISE, ylabel="rounds of recovery")
    costs.legend(fontsize=7)
    lost = costs.twinx()
    means = [sum(one["before"] - one["after"] for one in cell["recovery"]) / len(cell["recovery"]) for cell in noises]
    lost.plot(scale, [100 * value for value in means], color="black", linestyle="--")
    lost.set_ylabel("dashed: points lost right after")
    figure.tight_layout()
    figure.savefig(file, dpi=90, metadata=PLAIN)
    plt.close(figure)


def draw_pictures(who: Document, file: Path) -> None:
    """Draw the true pictures, and below them what was rebuilt from what each sees."""
    import matplotlib.pyplot as plt
    import numpy as np

    names = list(who)
    shown = [row for row in who[names[0]] if "true" in row]
    size = (1.1 * len(shown) + 1.6, 1.2 * (len(names) + 1))
    figure, axes = plt.subplots(len(names) + 1, len(shown), figsize=size, squeeze=False)
    for column in range(len(shown)):
        stacked = [who[names[0]][column]["true"], *(who[name][column]["made"] for name in names)]
        for line, picture in enumerate(stacked):
            axis = axes[line][column]
            axis.imshow(np.array(picture)[0].mean(axis=0), cmap="gray", vmin=-1, vmax=1)
            axis.set(xticks=[], yticks=[])
            if not column:
                axis.set_ylabel(["truth", *names][line], rotation=0, ha="right", va="center", fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=90, metadata=PLAIN)
    plt.close(figure)


def _spread(found: Sequence[Document]) -> list[list[float]]:
    """Return how far the ends of the intervals are from the areas, as matplotlib takes it."""
    return [[one["auc"] - one["low"] for one in found], [one["high"] - one["auc"] for one in found]]
