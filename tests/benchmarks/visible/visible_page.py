"""docs/results/visible.md and its figure, from what `visible_methods` measured."""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from fedquit.documents import Document
from fedquit.simulations.compare.results.paired_differences import paired
from fedquit.unlearning.evaluation.prediction_interval import Prediction
from fedquit.unlearning.evaluation.verdict import CONSISTENT, OTHER_SIDE, REFERENCES, shares_of

PAPER, AUTO, CONTINUE, RIVAL = "fedquit", "fedquit, auto", "continue", "projected-ascent"
ACCURACY = "forget_accuracy"
MEASURES = ("position", "forget_loss", ACCURACY)
VERDICT = (*MEASURES, "test_accuracy")
STEP = 0.05  # points; how far two mean gaps are apart is stated in whole steps, rounded up
COUNTS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")

ABOUT = """# Where forgetting can be seen

Made by `python -m tests.benchmarks.visible.visible_methods --work DIR` (minutes of one core; resumes after a kill). It
writes [visible.json](visible.json), and from that this page and its figure. Settings, rows and seeds are those of the
configs `visible-*` that ship with fedquit; `fedquit compare visible-wrong-labels` runs one of them on the real engine,
which draws other random numbers.
"""

PLACE = """**FedQUIT's place.** In every setting here FedQUIT with its paper's values ends on average as far from
retraining as `continue`, which removes nothing (to {apart:.2f} points). The column *fedquit, auto* has `lr = auto` and
`temperature = 4`, which are ours. Each column of a method has the distance of its forget accuracy from retraining in
points, and the number of seeds on which it is inside retraining's interval. The last two columns rank *fedquit, auto*
by that distance, the nearest first: among all rows, and among those that cost no more bytes than projected-ascent.
"""

WHOLE = """
By all four measures of the verdict together FedQUIT is *consistent with retraining* in {paper} of {total} cases with
the paper's values and in {auto} with `lr = auto`; the best row, {best}, in {most}. Position and loss also depend on how
confident a model is, and five rounds do not make it as confident as training from the start does.
"""

HOW = """Three clients of 100 digits each, an mlp, 45 rounds of two local epochs (where few samples are memorised: 30
digits each, ten rounds of twenty epochs); client 0 is forgotten, five rounds of recovery without it follow, the same
for every method. Each seed has its own training and five models retrained without client 0 for as many rounds as the
recovered ones. Methods have their default settings, that is their papers' where those name any; nothing was tuned on
these seeds.

- **gap**: absolute difference between forget accuracy and the retrained models' mean, in points: mean ± standard
  deviation over seeds.
- **units of noise**: differences of position, forget loss and forget accuracy from the retrained models' mean, in
  standard deviations of one more retrained model (for accuracy, at least one sample), medians over seeds
  ([report.md](../report.md#the-verdict)). The interval of accuracy goes from {low:.1f} to {high:+.1f}:
  under-forgetting is above.
- **inside**: on how many seeds forget accuracy is inside its interval; and on how many all four measures of the verdict
  are (*consistent with retraining*).
- **test before, after recovery**: test accuracy right after the method, and after recovery. A deployment's guard
  refuses a model that is left with less than a third of the accuracy before the request
  ([coordinator.md](../coordinator.md#the-guard)).
- **bytes**: of forgetting and recovery, in % of retraining's.
- **nearer than fedquit**: mean paired difference between the gap and that of FedQUIT with the paper's values, in points
  (below 0: nearer to retraining), and the p-value of a two-sided paired t-test over the seeds.
"""

FORGETTING_TRIED = """\
Tried on the setting of wrong labels, on seeds {seeds}, which no other table here uses, one change at a time. The best
was then run, unchanged, on the other seeds and on the other settings. One choice was not blind: a stop at 30 %
costs less accuracy before recovery, so it was run on thirteen of those runs as well, and dropped, as it forgot less.
"""


def make_page(results: Document) -> str:
    """Return the page."""
    settings = results["settings"]
    by_setting = {name: [one for one in results["measured"] if one["setting"] == name] for name in settings}
    by_setting = {name: runs for name, runs in by_setting.items() if runs}
    tried, curves = results["hypotheses"], results["curves"]
    share = shares_of(list(VERDICT))[ACCURACY]
    low, high = Prediction(mean=0.0, noise=1.0, count=REFERENCES).interval(OTHER_SIDE, share)
    parts = [
        ABOUT,
        *_missing(results["missing"]),
        _place(by_setting, settings),
        "## How visible it is\n",
        _visible(by_setting, settings),
        "## Every method\n",
        HOW.format(low=low, high=high),
        *(part for name, runs in by_setting.items() for part in (f"### {settings[name]['title']}\n", _methods(runs))),
    ]
    if tried:
        seeds = ", ".join(str(one["seed"]) for one in tried)
        table = _methods(tried, first="the paper's values: one epoch at 1e-4")
        parts += ["## How `lr = auto` was found\n", FORGETTING_TRIED.format(seeds=seeds), table]
    if curves:
        parts += ["## What resurfaces\n", _long(curves, settings, len({one["seed"] for one in results["measured"]}))]
    return "\n".join(parts)


def _missing(names: Sequence[str]) -> list[str]:
    """Name the runs that the tables below lack; say nothing where none is missing."""
    return [f"These runs are not measured yet, and missing below: {', '.join(names)}.\n"] if names else []


def _place(by_setting: Mapping[str, Sequence[Document]], settings: Mapping[str, Document]) -> str:
    """Say first where FedQUIT stands."""
    compared = (PAPER, AUTO, CONTINUE, RIVAL)
    apart = max(abs(_gap(runs, PAPER) - _gap(runs, CONTINUE)) for runs in by_setting.values())
    apart = max(1, ceil(round(apart / STEP, 6))) * STEP
    lines = [
        PLACE.format(apart=apart),
        *_head("setting", *compared, "rank of all", "at that cost"),
    ]
    for name, runs in by_setting.items():
        order = _order(runs)
        cheap = [row for row in order if _bytes(runs, row) <= _bytes(runs, RIVAL)]
        shown = [f"{_gap(runs, row):.1f} ({_inside(runs, row)} of {len(runs)})" for row in compared]
        places = [f"{rows.index(AUTO) + 1} of {len(rows)}" for rows in (order, cheap)]
        lines.append(f"| {settings[name]['title']} | {' | '.join(shown + places)} |")
    total = sum(map(len, by_setting.values()))
    rows = next(iter(by_setting.values()))[0]["rows"]
    whole = {row: sum(_consistent(runs, row) for runs in by_setting.values()) for row in rows}
    best = max(whole, key=lambda row: whole[row])
    lines += _not_by_accuracy(by_setting, settings)
    lines.append(WHOLE.format(paper=whole[PAPER], total=total, auto=whole[AUTO], best=best, most=whole[best]))
    return "\n".join(lines)


def _not_by_accuracy(by_setting: Mapping[str, Sequence[Document]], settings: Mapping[str, Document]) -> list[str]:
    """Say where accuracy cannot tell a model that forgot nothing from a retrained one."""
    blind = [name for name, runs in by_setting.items() if 2 * _inside(runs, CONTINUE) > len(runs)]
    return [
        f"\n*{settings[name]['title']}*: forget accuracy cannot tell there, as\n`continue` is inside its interval on "
        f"{_inside(runs, CONTINUE)} of {len(runs)} seeds. Position can: *fedquit, auto* is at {_at(runs, AUTO):.2f}, "
        f"fedquit at\n{_at(runs, PAPER):.2f}, `continue` at {_at(runs, CONTINUE):.2f}, projected-ascent at "
        f"{_at(runs, RIVAL):.2f}; retrained models are at 1."
        for name in blind
        for runs in [by_setting[name]]
    ]


def _at(runs: Sequence[Document], row: str) -> float:
    return fmean(_value(one["rows"][row], "position") for one in runs)


def _visible(by_setting: Mapping[str, Sequence[Document]], settings: Mapping[str, Document]) -> str:
    lines = [
        "How far `continue`, a model that forgot nothing, is from retraining.\n",
        *_head(
            "setting",
            "forget accuracy: before, continued, retrained",
            "position: continued",
            "units of noise: position, forget loss, forget accuracy",
        ),
    ]
    for name, runs in by_setting.items():
        before = fmean(one["original"][ACCURACY] for one in runs)
        after = [one["rows"][CONTINUE]["measures"] for one in runs]
        accuracies = before, *(fmean(each[ACCURACY][key] for each in after) for key in ("value", "expected"))
        position = fmean(each["position"]["value"] for each in after)
        lines.append(
            f"| {settings[name]['title']} | {', '.join(f'{100 * value:.1f} %' for value in accuracies)} "
            f"| {position:.2f} | {_noise(runs, CONTINUE)} |"
        )
    return "\n".join(lines) + "\n"


def _methods(runs: Sequence[Document], first: str = PAPER) -> str:
    """Return the table of methods of one setting, the nearest to retraining first."""
    lines = _head(
        "method",
        "gap",
        "units of noise",
        "inside: accuracy, all",
        "position",
        "test before, after recovery",
        "bytes",
        "nearer than fedquit",
    )
    base = _by_seed(runs, first)
    for row in _order(runs):
        found = [one["rows"][row] for one in runs]
        difference = paired(_by_seed(runs, row), base)
        nearer = "" if row == first or difference is None else _difference(difference)
        broken = fmean(each["unlearned"]["test_accuracy"] for each in found)
        position, test = (fmean(_value(each, name) for each in found) for name in ("position", "test_accuracy"))
        lines.append(
            f"| {row} | {_spread(_gaps(runs, row))} | {_noise(runs, row)} "
            f"| {_inside(runs, row)}, {_consistent(runs, row)} of {len(runs)} | {position:.2f} "
            f"| {100 * broken:.1f}, {100 * test:.1f} | {100 * _bytes(runs, row):.1f} | {nearer} |"
        )
    return "\n".join(lines) + "\n"


RESURFACING = """\
Forget accuracy in % by the number of rounds without client 0, mean of seeds {seeds}; the retrained models train on for
as many. Of the model after {last} rounds:

- **came back**: the share of the accuracy which forgetting took away that is there again, `(A_T - A_0) / (A - A_0)`:
  `A` is the accuracy before forgetting, `A_0` right after, `A_T` after T rounds. A resurfacing rate is the idea of
  Lethe ([2601.22601](https://arxiv.org/abs/2601.22601)); this formula is ours: its values are not that paper's.
- **would, retrained**: the same share for a model with the accuracy of the retrained ones. To come back so far is
  recovery, and only what is beyond it has resurfaced. Empty where forgetting took less than five points away.
- **above retrained**: forget accuracy minus the retrained models', in points.

![Forget accuracy over a hundred rounds of recovery](visible.png)

{few} seed{s}; the tables of every method above have {many}.
"""


def _long(measured: Sequence[Document], settings: Mapping[str, Document], many: int) -> str:
    """Return what comes back in many rounds; `many` is the number of seeds of the other tables."""
    rounds, seeds = measured[0]["rounds"], dict.fromkeys(str(one["seed"]) for one in measured)
    about = {"seeds": ", ".join(seeds), "last": rounds[-1], "s": "" if len(seeds) == 1 else "s"}
    parts = [RESURFACING.format(**about, few=COUNTS[len(seeds)], many=COUNTS[many].lower())]
    for name, found in courses(measured).items():
        lines = [
            f"### {settings[name]['title']}: what comes back\n",
            *_head("method", *map(str, rounds), "came back", "would, retrained", "above retrained"),
        ]
        curves = mean_curves(found)
        target = curves["retrained"][-1]
        for row, curve in curves.items():
            shares = [returned(curves[CONTINUE][0], curve[0], end) for end in (curve[-1], target)]
            shown = ["" if share is None or row == "retrained" else f"{share:.2f}" for share in shares]
            above = "" if row == "retrained" else f"{100 * (curve[-1] - target):+.1f}"
            lines.append(f"| {row} | {' | '.join([f'{100 * value:.1f}' for value in curve] + shown)} | {above} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def courses(measured: Sequence[Document]) -> dict[str, list[Document]]:
    """Return curves by setting."""
    found: dict[str, list[Document]] = {}
    for one in measured:
        found.setdefault(one["setting"], []).append(one)
    return found


def returned(before: float, after: float, end: float, least: float = 0.05) -> float | None:
    """Return which share of what was taken from `before` to `after` is there at the `end`; None if that was little.

    >>> returned(1.0, 0.5, 0.75), returned(1.0, 0.99, 0.75)
    (0.5, None)
    """
    return None if before - after < least else (end - after) / (before - after)


def mean_curves(measured: Sequence[Document]) -> dict[str, list[float]]:
    """Return the mean forget accuracy of every row over seeds, that of all retrained models as one row.

    >>> points = lambda *values: [{"forget_accuracy": value} for value in values]
    >>> mean_curves([{"curves": {"a": points(0.5, 1.0), "retrained 0": points(0.25), "retrained 1": points(0.75)}}])
    {'a': [0.5, 1.0], 'retrained': [0.5]}
    """
    gathered: dict[str, list[list[float]]] = {}
    for one in measured:
        for row, course in one["curves"].items():
            name = "retrained" if row.startswith("retrained ") else row
            gathered.setdefault(name, []).append([values[ACCURACY] for values in course])
    return {name: [fmean(values) for values in zip(*found, strict=True)] for name, found in gathered.items()}


def draw_curves(results: Document, path: Path) -> None:
    """Draw forget accuracy over the rounds of recovery."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    found = courses(results["curves"])
    figure = Figure(figsize=(12, 4.2 * ((len(found) + 1) // 2)), layout="constrained")
    grid = figure.subplots((len(found) + 1) // 2, 2, squeeze=False).ravel().tolist()
    styles = ("-", "--", ":", "-.")
    for axes, (name, measured) in zip(grid, found.items(), strict=False):
        rounds = measured[0]["rounds"]
        for number, (row, curve) in enumerate(mean_curves(measured).items()):
            width, colour = (3, "black") if row == "retrained" else (1.5, f"C{number % 10}")
            axes.plot(
                rounds, [100 * value for value in curve], styles[number % 4], label=row, linewidth=width, color=colour
            )
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xticks(rounds, map(str, rounds))
        axes.set_xlabel("rounds without client 0")
        axes.set_ylabel("accuracy on client 0's samples, %")
        axes.set_title(results["settings"][name]["title"], fontsize="small")
    for axes in grid[len(found) :]:
        axes.set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize="small", ncols=5)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _value(row: Document, measure: str) -> float:
    return float(row["measures"][measure]["value"])


def _by_seed(runs: Sequence[Document], row: str) -> dict[int, float]:
    """Return the sizes of a row's gaps of forget accuracy, in points."""
    measures = {one["seed"]: one["rows"][row]["measures"][ACCURACY] for one in runs}
    return {seed: 100 * abs(held["value"] - held["expected"]) for seed, held in measures.items()}


def _gaps(runs: Sequence[Document], row: str) -> list[float]:
    return list(_by_seed(runs, row).values())


def _gap(runs: Sequence[Document], row: str) -> float:
    return fmean(_gaps(runs, row))


def _order(runs: Sequence[Document]) -> list[str]:
    """Return the rows, the nearest to retraining first."""
    return sorted(runs[0]["rows"], key=lambda row: _gap(runs, row))


def _bytes(runs: Sequence[Document], row: str) -> float:
    return fmean(one["rows"][row]["bytes_share"] for one in runs)


def _inside(runs: Sequence[Document], row: str) -> int:
    return sum(one["rows"][row]["measures"][ACCURACY]["inside"] for one in runs)


def _consistent(runs: Sequence[Document], row: str) -> int:
    return sum(one["rows"][row]["outcome"] == CONSISTENT for one in runs)


def _noise(runs: Sequence[Document], row: str) -> str:
    found: list[str] = []
    for name in MEASURES:
        known = [one["rows"][row]["measures"][name]["distance"] for one in runs]
        known = [value for value in known if value is not None]
        found.append(f"{median(known):+.1f}" if known else "-")
    return ", ".join(found)


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def _difference(found: Mapping[str, Any]) -> str:
    p = found["p"]
    sure = "" if p is None else " (p < 0.001)" if p < 0.001 else f" (p = {p:.3f})"
    return f"{found['mean']:+.1f}{sure}"


def _head(*columns: str) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
