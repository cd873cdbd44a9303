"""The table of leaks in Markdown, and reconstructions beside the truth, from the JSON that the benchmark wrote."""

import json
from collections.abc import Iterator
from pathlib import Path

from fedquit.documents import Document

READ = ("auc", "correlation")
WHO = ("server", "device, direct", "device, deferred")
INTRO = """# What a request to be forgotten reveals

    python -m tests.benchmarks.requests.leak --data digits --model mlp      # and so on; resumes where it was stopped
    python -m tests.benchmarks.requests.leak --data digits --model mlp --noise

Ten clients train together (Dirichlet 1; digits: 10 rounds; Fashion-MNIST, where shown: 5,000 samples, 5
rounds). Then one of them is asked, each time from the same model g, to forget random samples; n is the number of
these requests. There are three observers:

- **server** sees g, and the model f that the asking device returned;
- **device, direct** sees g, and the model that the other devices receive next, which the method computed from f
  (`adopt = direct`). If that is f itself the row is left out: it equals the server's;
- **device, deferred** sees g, and g + (the others' mean step) + (f - g), which the other devices receive next with
  `adopt = deferred`.

*Classes* are read off the last layer's bias without any search: whether the class with the most evidence was
forgotten (*class guessed*), whether the classes with evidence above 0 are exactly those forgotten (*classes exact*),
the chance that a forgotten class
has more evidence than another (AUC; 0.5: guessing), and the correlation with the number of samples of each
class. The step of the previous round is not subtracted here.

In the *game* two sets of samples are equally likely, of the same classes sample by sample or of no class in
common, and the attacker must say which was forgotten. It knows g, the method, its settings and both sets, unlearns
each itself with other random numbers, and compares by cosine; a device first subtracts the step of the previous
round, which it has seen. The table shows the area under the ROC curve with its 95 % interval (Newcombe 2006, method
5); 0.5 is guessing. The *control* is the same game where nothing was forgotten: on an ordinary reply to
training, and on an ordinary round.

Not measured: `retrain`, which returns an untrained model; what several requests about the same samples reveal
together; an attacker who takes part in the deferred round with updates of its choice. A reconstruction that
fails proves nothing; the game is the stricter test.
"""


def write_markdown(folder: Path) -> None:
    """Write FOLDER.md from FOLDER/leak.json, and a picture for each data set and model."""
    cells: Document = json.loads((folder / "leak.json").read_text(encoding="utf-8"))
    runs = list(dict.fromkeys("/".join(name.split("/")[:2]) for name in cells))
    parts = [section for run in runs for section in _section(run, cells, folder)]
    folder.with_suffix(".md").write_text(INTRO + "\n" + "\n\n".join(parts) + "\n", encoding="utf-8")


def _section(run: str, cells: Document, folder: Path) -> Iterator[str]:
    data, model = run.split("/")
    mine = {name.removeprefix(f"{run}/"): cell for name, cell in cells.items() if name.startswith(f"{run}/")}
    yield f"## {data}, {model}"
    rows = [
        row
        for name, cell in mine.items()
        if not name.startswith(("pictures", "noise", "together"))
        for row in _rows(name, cell)
    ]
    if rows:
        titles = ("method", "samples", "who", "n", "class guessed", "classes exact", "AUC", "counts, r",
                  "game, same classes", "game, different", "control, same", "control, different")  # fmt: skip
        yield table(titles, rows)
    noises = [cell for name, cell in mine.items() if name.startswith("noise")]
    if noises:
        yield from _curve(noises, folder, f"noise-{data}-{model}.png")
    several = [cell for name, cell in mine.items() if name.startswith("together")]
    if several:
        yield (
            "Requests together: the steps of several requests, 8 samples each, added up; what is seen of one of them "
            "(a server does not serve requests so yet):"
        )
        yield table(
            ("requests", "seen by", "n", "AUC of its classes", "counts, r", "game, same classes"),
            [row for cell in several for row in _together_rows(cell)],
        )
    shown = {name.split("/")[1]: cell for name, cell in mine.items() if name.startswith("pictures")}
    if shown:
        yield "Reconstructions of what FedQUIT forgot, means over n requests:"
        seen = ("samples", "from what is seen by", "n", "SSIM", "PSNR, dB", "nearest of 100 is right", "by chance")
        yield table(seen, [row for size, cell in shown.items() for row in _picture_rows(size, cell)])
    if "1" in shown:
        file = folder / f"reconstructions-{data}-{model}.png"
        draw(shown["1"]["who"], file)
        yield f"![The truth, and what was rebuilt of it]({folder.name}/{file.name})"


def _rows(name: str, cell: Document) -> Iterator[tuple[str, ...]]:
    method, size = name.split("/")
    for who in WHO:
        if who in cell:
            seen, control = cell[who], cell[f"{who}, control"]
            if who != "server" and "server" in cell and seen["games"] == cell["server"]["games"]:
                continue
            read = seen["classes"]["naive"]
            yield (
                method,
                size,
                who,
                str(seen["classes"]["trials"]),
                f"{read['guessed']:.0%}",
                f"{read['exact']:.0%}",
                *("-" if read[name] is None else f"{read[name]:.2f}" for name in ("auc", "correlation")),
                *(strongest(found["games"][kind]) for found in (seen, control) for kind in found["games"]),
            )


def strongest(games: Document) -> str:
    """Return the area of the attack that knows the method, and its interval.

    >>> strongest({"replay": {"auc": 1.0, "low": 0.9, "high": 1.0}})
    '1.00 (0.90-1.00)'
    """
    game = games["replay"]
    return f"{game['auc']:.2f} ({game['low']:.2f}-{game['high']:.2f})"


def _together_rows(cell: Document) -> Iterator[tuple[str, ...]]:
    for who, game in cell["games"].items():
        read = cell["classes"][who]
        found = ("-" if value is None else f"{value:.2f}" for value in (read["naive"][key] for key in READ))
        yield (str(cell["number"]), who, str(read["trials"]), *found, strongest({"replay": game}))


def _curve(noises: list[Document], folder: Path, file: str) -> Iterator[str]:
    yield (
        "Clipping (to 0.06) and Gaussian noise on the asking device, FedQUIT, 8 samples, two sets of the same classes; "
        "the bound holds for any attack on the one model. Rounds until accuracy is back within 0.01 of what it was, at "
        "most 20, after client 0, 1, 2 was forgotten with that noise (in brackets: accuracy lost right after):"
    )
    titles = ("noise", "bound", "game, server", "game, device, deferred", "rounds of recovery")
    rows = [
        (
            f"{cell['noise']:g}",
            f"{cell['bound']:.2f}",
            *(strongest({"replay": cell["games"][who]}) for who in ("server", "device, deferred")),
            ", ".join(
                f"{one['rounds'] if one['reached'] else 'over 20'} ({one['before'] - one['after']:.2f})"
                for one in cell["recovery"]
            ),
        )
        for cell in noises
    ]
    yield table(titles, rows)
    draw_curve(noises, folder / file)
    yield f"![What noise gives and costs]({folder.name}/{file})"


def draw_curve(noises: list[Document], file: Path) -> None:
    """Draw the area of the game, and the rounds of recovery, against the noise."""
    import matplotlib.pyplot as plt

    figure, (games, costs) = plt.subplots(1, 2, figsize=(8, 3))
    scale = [max(cell["noise"], 1e-3) for cell in noises]  # none at the left edge
    for who in ("server", "device, deferred"):
        found = [cell["games"][who] for cell in noises]
        areas = [each["auc"] for each in found]
        spread = [[a - each["low"] for a, each in zip(areas, found, strict=True)],
                  [each["high"] - a for a, each in zip(areas, found, strict=True)]]  # fmt: skip
        games.errorbar(scale, areas, spread, marker="o", capsize=3, label=who)
    games.axhline(0.5, color="grey", linestyle=":")
    games.set(xscale="log", xlabel="noise, in times of the clip (left: none)", ylabel="game, AUC", ylim=(0.2, 1.05))
    games.legend(fontsize=8)
    rounds = [[one["rounds"] for one in cell["recovery"]] for cell in noises]
    costs.plot(scale, rounds, marker="o")
    costs.set(
        xscale="log", xlabel="noise, in times of the clip (left: none)", ylabel="rounds of recovery (20: not reached)"
    )
    figure.tight_layout()
    figure.savefig(file, dpi=90, metadata={"Software": None})
    plt.close(figure)


def _picture_rows(size: str, cell: Document) -> Iterator[tuple[str, ...]]:
    for who, rows in cell["who"].items():
        means = [sum(row[key] for row in rows) / len(rows) for key in ("ssim", "psnr", "hit")]
        yield (
            size, who, str(len(rows)), f"{means[0]:.2f}", f"{means[1]:.1f}", f"{means[2]:.0%}",
            f"{cell['by_chance']:.0%}",
        )  # fmt: skip


def table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return rows as a Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (titles, ("---",) * len(titles), *rows))


def draw(who: Document, file: Path) -> None:
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
    figure.savefig(file, dpi=90, metadata={"Software": None})
    plt.close(figure)
