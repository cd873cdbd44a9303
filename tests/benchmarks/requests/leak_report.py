"""What requests reveal, in Markdown, from the JSON that the benchmark wrote: a short page, and one for each model."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import fill

from fedquit.documents import Document
from tests.benchmarks.requests.leak_conclusion import ALONE, conclusion
from tests.benchmarks.requests.leak_figures import draw_curve, draw_games, draw_pictures
from tests.benchmarks.requests.leak_methods import NO_GAME, WHO, by_method, has_game, missing

READ = ("auc", "correlation")
OTHERS = ("pictures", "noise", "together")
INTRO = """# What a request to be forgotten reveals

    python -m tests.benchmarks.requests.leak --data digits --model mlp      # and so on; resumes where it was stopped
    python -m tests.benchmarks.requests.leak --data digits --model mlp --noise

Ten clients train together (Dirichlet 1; digits: 10 rounds; Fashion-MNIST: 5,000 samples, 5 rounds). Then one of them
forgets random samples with FedQUIT's defaults, each time from the same model g. Who learns what:
"""
EXPLAINED = """*Its class*: how often the class with the most evidence in the last layer's bias was the one forgotten,
without any search. *Rebuilt*: how often a reconstruction of the sample by gradient matching was nearer to it than to 99
others (1 % by chance); the attack is told the class. *Which of two*: the area under the ROC curve (0.5: guessing) of an
attacker who knows the method and two candidate sets of the same classes, with its 95 % interval (Newcombe 2006, method
5). *Class counts, r*: the correlation of the evidence with the number of forgotten samples of each class. *Nothing
forgotten*: the same attacks on an ordinary round.

CONCLUSION

![Who tells which of two candidate sets was forgotten](FOLDER/games.png)
"""
PAGES = "Each page has all sizes for each method, with intervals and controls; what is missing:"
CURVE = """{run}, FedQUIT, 8 samples, two sets of the same classes. The device clips its step to 0.06, about its usual
length, so clipping alone costs little; *noise* is a multiple of that. *Bound*: the most that any attack on the one
model can reach. *Rounds*: until accuracy is back within 0.01 of what it was, at most 20, after client 0, 1 or 2 was
forgotten with that noise, whatever the guard says (in brackets: accuracy lost right after). *Guard*: what it decides
about those models with its defaults and a validation set:
"""
NOISE = """## Noise and clipping on the asking device

{text}

**What this is, and is not.** It is a bound on one game: whoever sees one noisy step, and must choose between two
candidate sets, has an area under the ROC curve of at most Phi(sqrt(2) / noise). It is not (epsilon, delta) differential
privacy of the samples: the model before was trained on them without noise, their number is in the ask, replies to
several requests add up, and the generator is seeded with 63 bits and computes in floating point. So no epsilon is
given.
"""
EACH = """# What a request reveals: {name}

    python -m tests.benchmarks.requests.leak --data {data} --model {model}

Settings and summary: [leak.md](../leak.md). n is the number of requests (`--trials`). There are three observers:

- **server** sees g, and the model f that the asking device returned;
- **device, direct** sees g, and the model that the other devices receive next, which the method computed from f
  (`adopt = direct`). If that is f itself the row is left out: it equals the server's;
- **device, deferred** sees g, and g + (the others' mean step) + (f - g), which the other devices receive next with
  `adopt = deferred`; there is none for a method whose model is far from g.

*Classes* are read off the last layer's bias without any search: whether the class with the most evidence was
forgotten (*class guessed*), whether the classes with evidence above 0 are exactly those forgotten (*classes exact*),
the chance that a forgotten class has more evidence than another (AUC; 0.5: guessing), and the correlation with the
number of samples of each class. The step of the previous round is not subtracted here.

In the *game* two sets of samples are equally likely, of the same classes sample by sample or of no class in
common, and the attacker must say which was forgotten. It knows g, the method, its settings and both sets, unlearns
each itself with other random numbers, and compares by cosine; a device first subtracts the step of the previous
round, which it has seen. The table shows the area under the ROC curve with its 95 % interval (Newcombe 2006, method
5); 0.5 is guessing. The *control* is the same game where nothing was forgotten: on an ordinary reply to
training, and on an ordinary round. *No game*: the asking device takes no part, and both sets give the same
model ([leak.md](../leak.md#every-method)).

Not measured: what several requests about the same samples reveal together; an attacker who takes part in the deferred
round, and subtracts its own update or sends one of its choice. A reconstruction that fails proves nothing; the game is
the stricter test.
"""
Cells = Mapping[str, Document]


def write_markdown(folder: Path) -> None:
    """Write FOLDER.md and a page for each data set and model from FOLDER/leak.json, with figures."""
    cells: Document = json.loads((folder / "leak.json").read_text(encoding="utf-8"))
    runs: dict[str, dict[str, Document]] = {}
    for name, cell in cells.items():
        data, model, rest = name.split("/", 2)
        runs.setdefault(f"{data}/{model}", {})[rest] = cell
    for run, mine in runs.items():
        page = "\n\n".join(_page(run, mine, folder))
        (folder / f"{run.replace('/', '-')}.md").write_text(page + "\n", encoding="utf-8")
    folder.with_suffix(".md").write_text("\n\n".join(_summary(runs, folder)) + "\n", encoding="utf-8")


def _summary(runs: Mapping[str, Cells], folder: Path) -> Iterator[str]:
    yield INTRO.rstrip()
    fedquit = {run: _sizes(mine) for run, mine in runs.items() if f"fedquit/{ALONE}" in mine}
    titles = ("data, model", "seen by", "one sample: its class", "rebuilt", "which of two", "many samples: class "
              "counts, r", "which of two sets")  # fmt: skip
    yield table(titles, [row for run in fedquit for row in _who_learns(run, runs[run], fedquit[run])])
    if fedquit:
        draw_games({run.replace("/", ", "): cells for run, cells in fedquit.items()}, folder / "games.png")
        said = filled(conclusion(fedquit, {run: runs[run].get(f"pictures/{ALONE}", {}) for run in fedquit}))
        yield EXPLAINED.replace("FOLDER", folder.name).replace("CONCLUSION", said).rstrip()
    yield PAGES
    yield "\n".join(
        filled(f"- [{run.replace('/', ', ')}]({folder.name}/{run.replace('/', '-')}.md){missing(mine)}", "  ")
        for run, mine in runs.items()
    )
    yield from by_method(runs, table)
    for run, mine in runs.items():
        noises = [cell for name, cell in mine.items() if name.startswith("noise")]
        if noises:
            text = "\n\n".join(_curve(run, noises, folder))
            yield NOISE.format(text=text).rstrip()
        several = [cell for name, cell in mine.items() if name.startswith("together")]
        if several:
            yield "\n\n".join(_together(run, several))


def _sizes(mine: Cells) -> dict[int, Document]:
    """Return FedQUIT's cells by size of the request."""
    return {int(name.split("/")[1]): cell for name, cell in mine.items() if name.startswith("fedquit/")}


def _who_learns(run: str, mine: Cells, cells: Mapping[int, Document]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the summary: the server, a device, and a round in which nothing is forgotten."""
    alone, most = cells[ALONE], cells[max(cells)]
    pictures = mine.get("pictures/1", {}).get("who", {})
    for who, label, made in (
        ("server", "the server; a device, direct", "server"),
        ("device, deferred", "a device, deferred", "device, deferred"),
        ("device, deferred, control", "nothing forgotten", "control"),
    ):
        hits = [row["hit"] for row in pictures.get(made, ())]
        one, many = alone[who], most[who]
        yield (
            run.replace("/", ", "),
            label,
            _of(one["classes"]["naive"]["guessed"], one["classes"]["trials"]),
            _of(sum(hits) / len(hits), len(hits)) if hits else "-",
            replay_game(one["games"]["same_class"]),
            f"{many['classes']['naive']['correlation']:.2f} ({max(cells)} samples)",
            replay_game(many["games"]["same_class"]),
        )


def _of(share: float, number: int) -> str:
    """Return a share as a count.

    >>> _of(0.175, 40)
    '7 of 40'
    """
    return f"{round(share * number)} of {number}"


def filled(text: str, indent: str = "") -> str:
    """Return a paragraph or an item of a list in lines of at most 120 columns."""
    return fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _page(run: str, mine: Cells, folder: Path) -> Iterator[str]:
    data, model = run.split("/")
    yield EACH.format(name=f"{data}, {model}", data=data, model=model).rstrip()
    rows = [row for name, cell in mine.items() if not name.startswith(OTHERS) for row in _rows(name, cell)]
    if rows:
        titles = ("method", "samples", "who", "n", "class guessed", "classes exact", "AUC", "counts, r",
                  "game, same classes", "game, different", "control, same", "control, different")  # fmt: skip
        yield table(titles, rows)
    shown = {name.split("/")[1]: cell for name, cell in mine.items() if name.startswith("pictures")}
    if shown:
        yield "Reconstructions of what FedQUIT forgot, means over n requests:"
        seen = ("samples", "from what is seen by", "n", "SSIM", "PSNR, dB", "nearest of 100 is right", "by chance")
        yield table(seen, [row for size, cell in shown.items() for row in _picture_rows(size, cell)])
    if "1" in shown:
        file = folder / f"reconstructions-{data}-{model}.png"
        draw_pictures(shown["1"]["who"], file)
        yield f"![The truth, and what was rebuilt of it]({file.name})"


def _rows(name: str, cell: Document) -> Iterator[tuple[str, ...]]:
    method, size = name.split("/")
    for who in WHO:
        if who not in cell:
            continue
        seen, control = cell[who], cell[f"{who}, control"]
        if who == "device, direct" and "server" in cell and seen == cell["server"]:
            continue
        read = seen["classes"]["naive"]
        yield (
            method,
            size,
            who,
            str(seen["classes"]["trials"]),
            f"{read['guessed']:.0%}",
            f"{read['exact']:.0%}",
            *("-" if read[name] is None else f"{read[name]:.2f}" for name in READ),
            *(
                replay_game(found["games"][kind]) if has_game(cell) else NO_GAME
                for found in (seen, control)
                for kind in found["games"]
            ),
        )


def replay_game(games: Document) -> str:
    """Return the area of the attack that unlearns each candidate itself, and its interval.

    >>> replay_game({"replay": {"auc": 1.0, "low": 0.9, "high": 1.0}})
    '1.00 (0.90-1.00)'
    """
    game = games["replay"]
    return f"{game['auc']:.2f} ({game['low']:.2f}-{game['high']:.2f})"


def _together(run: str, several: list[Document]) -> Iterator[str]:
    yield "## Requests served together"
    yield filled(
        f"{run.replace('/', ', ')}, FedQUIT: the steps of several requests of different clients, 8 samples each, added "
        "up, and what a device can tell about one of the requests. The server sees each step alone. fedquit does not "
        "serve requests together: [threats.md](../threats.md#requests-together) says why."
    )
    yield table(
        ("requests", "seen by", "n", "AUC of its classes", "counts, r", "game, same classes"),
        [row for cell in several for row in _together_rows(cell)],
    )


def _together_rows(cell: Document) -> Iterator[tuple[str, ...]]:
    for who, game in cell["games"].items():
        read = cell["classes"][who]
        found = ("-" if value is None else f"{value:.2f}" for value in (read["naive"][key] for key in READ))
        yield (str(cell["number"]), who, str(read["trials"]), *found, replay_game({"replay": game}))


def _curve(run: str, noises: list[Document], folder: Path) -> Iterator[str]:
    yield CURVE.format(run=run.replace("/", ", ")).rstrip()
    titles = ("noise", "bound", "game, server", "game, device, deferred", "rounds of recovery", "guard")
    rows = [
        (
            f"{cell['noise']:g}",
            f"{cell['bound']:.2f}",
            *(replay_game({"replay": cell["games"][who]}) for who in ("server", "device, deferred")),
            ", ".join(
                f"{one['rounds'] if one['reached'] else 'over 20'} ({one['before'] - one['after']:.2f})"
                for one in cell["recovery"]
            ),
            "; ".join(dict.fromkeys(one["verdict"] + _why(one["off"]) for one in cell["guard"])),
        )
        for cell in noises
    ]
    yield table(titles, rows)
    file = folder / f"noise-{run.replace('/', '-')}.png"
    draw_curve(noises, file)
    yield f"![What noise gives and costs]({folder.name}/{file.name})"


def _why(reason: str) -> str:
    """Return what the guard found, without its figures.

    >>> _why("accuracy 0.1 (at least 0.3); a layer's step, in times of its usual one, 30 (at most 25)")
    " (accuracy; a layer's step, in times of its usual one,)"
    """
    found = [re.sub(r" [-0-9.e+]+ \(at .*", "", each) for each in reason.split("; ")] if reason else []
    return f" ({'; '.join(found)})" if found else ""


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
