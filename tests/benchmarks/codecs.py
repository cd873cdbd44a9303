"""Measure what each way of coding models saves and costs: one run of each on the same data, split, model and seeds.

    python -m tests.benchmarks.codecs [CONFIG.toml] [--seed 0 --seed 1 --workers 2 --out compression.md --json]

All train for the same rounds, forget the same client and recover for the same rounds, so that bytes can be compared.
What a coding loses in accuracy is measured against the uncoded run of the same seed, in points.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from fedquit.documents import Document
from fedquit.settings import Settings, load_settings_file
from fedquit.simulations.compare.report.columns import spread_of
from fedquit.simulations.compare.results.row_statistics import summary
from fedquit.simulations.simulate.run_simulation import run_simulation

CODINGS: tuple[tuple[str, str, str], ...] = (
    ("", "", ""),
    ("zstd", "zstd", ""),
    ("fp16", "", ""),
    ("int8", "", ""),
    ("svd", "", "energy=0.95"),
    ("svd", "", "energy=0.8"),
    ("top-k", "", "share=0.1"),
    ("top-k", "", "share=0.01"),
    ("top-k", "", "share=0.1,feedback=false"),
    ("", "fp16", ""),
    ("", "int8", ""),
    ("fp16+zstd", "fp16+zstd", ""),
    ("int8+zstd", "fp16+zstd", ""),
    ("svd+int8+zstd", "fp16+zstd", "energy=0.95"),
    ("top-k+fp16+zstd", "fp16+zstd", "share=0.1"),
)
"""compress-up, compress-down and compress-settings of each run; the first is what the others are held against."""

FIXED = {"recover": "budget", "recover-rounds": 5, "reference": "none", "guard": "adopt"}
SPENT = ("train", "forget", "recover")
STAGES = {"test": ("original", "test_accuracy"), "recovered": ("recovered", "test_accuracy"),
          "forget": ("recovered", "forget_accuracy")}  # fmt: skip


def measure(given: Mapping[str, Any], coding: tuple[str, str, str], seed: int, workers: int) -> Document:
    """Carry out one run and return its bytes, accuracies and errors of coding."""
    up, down, told = coding
    coded = {"compress-up": up, "compress-down": down, "compress-settings": told}
    with tempfile.TemporaryDirectory(prefix="fedquit-") as folder:
        settings = {**given, **FIXED, "seed": seed, **coded}
        _, report = run_simulation(settings, out=Path(folder) / "run", workers=workers, only=SPENT)
    costs, stages = [report["phases"][phase] for phase in SPENT], report["stages"]
    return {
        **{f"bytes_{way}": sum(cost[f"bytes_{way}"] for cost in costs) for way in ("down", "up")},
        **{name: stages[stage][accuracy] for name, (stage, accuracy) in STAGES.items()},
        **{f"error_{way}": costs[0][f"compression_error_{way}"] for way in ("down", "up")},
        "error_forget": costs[1]["compression_error_up"],
    }


def row_of(coding: tuple[str, str, str], runs: Sequence[Document], plain: Sequence[Document]) -> Document:
    """Return what a coding saves, as shares of the bytes without it, and loses, over seeds.

    >>> run = {"bytes_down": 10, "bytes_up": 4, "test": 0.9, "recovered": 0.9, "forget": 0.5,
    ...        "error_down": None, "error_up": 0.1, "error_forget": 0.2}
    >>> row = row_of(("int8", "", ""), [{**run, "test": 0.75}], [{**run, "bytes_up": 16}])
    >>> row["saved_up"]["mean"], round(row["lost_test"]["mean"], 2)
    (0.75, 0.15)
    """
    pairs = list(zip(runs, plain, strict=True))
    return {
        "up": coding[0],
        "down": coding[1],
        "settings": coding[2],
        **{name: summary([run[name] for run in runs]) for name in runs[0]},
        **{f"saved_{w}": summary([1 - a[f"bytes_{w}"] / b[f"bytes_{w}"] for a, b in pairs]) for w in ("down", "up")},
        **{f"lost_{name}": summary([b[name] - a[name] for a, b in pairs]) for name in ("test", "recovered")},
        "changed_forget": summary([a["forget"] - b["forget"] for a, b in pairs]),
    }


def markdown(rows: Sequence[Document]) -> str:
    """Return the rows as a table; accuracies in %, differences of them in points."""
    titles = ("up", "down", "settings", "MB up", "saved", "MB down", "saved", "error down", "error up",
              "of the forget reply", "test accuracy", "lost", "lost, recovered", "change on the forgotten")  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in (titles, ("---",) * len(titles), *map(_line, rows)))


def _line(row: Document) -> list[str]:
    sizes = [
        text
        for way in ("up", "down")
        for text in (f"{row[f'bytes_{way}']['mean'] / 1e6:.2f}", f"{100 * row[f'saved_{way}']['mean']:z.1f} %")
    ]
    errors = [row[f"error_{name}"] for name in ("down", "up", "forget")]
    shown = ["" if error is None else f"{error['mean']:.2g}" for error in errors]
    lost = [spread_of(row[name]) for name in ("test", "lost_test", "lost_recovered", "changed_forget")]
    return [row["up"] or "-", row["down"] or "-", row["settings"], *sizes, *shown, *lost]


def _said(given: Mapping[str, Any], seeds: Sequence[int]) -> str:
    told = Settings.read({**given, **FIXED})
    skew = f" {told.alpha:g}" if told.scheme == "dirichlet" else ""
    return (
        f"{told.dataset}, {told.samples or 'all'} training samples, {told.clients} clients, {told.scheme}{skew}; "
        f"{told.model}; {told.rounds} rounds, then client {told.run_config()['forget']} forgotten by {told.method} and "
        f"{told.recover_rounds} rounds of recovery; seeds {', '.join(map(str, seeds))}."
    )


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--seed", "seeds", type=int, multiple=True, default=(0, 1), show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="file for the table, in Markdown")
@click.option("--json", "as_json", is_flag=True, help="print as JSON")
def main(config: Path | None, seeds: tuple[int, ...], workers: int, out: Path | None, as_json: bool) -> None:
    """Run every coding and print what it saves and loses; CONFIG holds settings of `fedquit simulate`."""
    given, runs = (load_settings_file(config) if config else {}), dict[tuple[str, str, str], list[Document]]()
    for coding in CODINGS:
        runs[coding] = [measure(given, coding, seed, workers) for seed in seeds]
        click.echo(f"{coding}: done", err=True)
    rows = [row_of(coding, found, runs[CODINGS[0]]) for coding, found in runs.items()]
    table = f"{_said(given, seeds)}\n\n{markdown(rows)}\n"
    if out:
        out.write_text(table, encoding="utf-8")
    click.echo(json.dumps({"rows": rows}, indent=1) if as_json else table)


if __name__ == "__main__":
    main()
