"""Several runs together: mean and spread of every stage over targets or seeds."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedquit.documents import Document
from fedquit.errors import InputError

MEASURES = ("forget_accuracy", "retain_accuracy", "test_accuracy", "worst_class_accuracy")
STAGES = ("original", "unlearned", "recovered", "retrained")


def summarise(reports: Sequence[Document]) -> Document:
    """Return a row for each run, and mean and standard deviation over them; one run has no deviation (None).

    Args:
        reports: documents of `report.json`.

    Raises:
        InputError: there are none, or the guard refused a model in one, so that it has none that recovered.
    """
    if not reports:
        raise InputError("no reports to summarise")
    rows = [_row(report) for report in reports]
    numbers = [
        name for name, value in rows[0].items() if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    columns = {name: [row[name] for row in rows if row.get(name) is not None] for name in numbers if name != "seed"}
    return {
        "runs": rows,
        "mean": {name: fmean(values) for name, values in columns.items()},
        "standard_deviation": {name: stdev(values) if len(values) > 1 else None for name, values in columns.items()},
    }


def _row(report: Document) -> Document:
    if report["stages"]["recovered"] is None:
        asked = f"forget {report['config']['forget']} by {report['config']['method']}, seed {report['config']['seed']}"
        raise InputError(f"the run '{asked}' ended without a recovered model; leave it out")
    row: Document = {
        "forget": report["config"]["forget"],
        "method": report["config"]["method"],
        "seed": report["config"]["seed"],
        "samples_to_forget": report["samples"]["forget"],
        "recovery_rounds": report["phases"]["recover"]["rounds"],
        "goal_reached": report["ended"]["recover"]["goal_reached"],
        "verdict": report["verdict"]["outcome"],
    }
    for stage in STAGES:
        for measure in MEASURES:
            row[f"{stage}_{measure}"] = report["stages"][stage] and report["stages"][stage][measure]
    retrained = report["stages"]["retrained"]
    if retrained:
        recovered = report["stages"]["recovered"]
        row["forget_accuracy_gap"] = abs(recovered["forget_accuracy"] - retrained["forget_accuracy"])
        row["bytes_ratio"] = report["ratios_to_retraining"]["bytes"]
        row["seconds_ratio"] = report["ratios_to_retraining"]["seconds"]
    return row


COLUMNS = (
    ("client", "forget", "{}"),
    ("samples", "samples_to_forget", "{:.0f}"),
    ("forget: original", "original_forget_accuracy", "{:.1%}"),
    ("unlearned", "unlearned_forget_accuracy", "{:.1%}"),
    ("recovered", "recovered_forget_accuracy", "{:.1%}"),
    ("retrained", "retrained_forget_accuracy", "{:.1%}"),
    ("test: original", "original_test_accuracy", "{:.1%}"),
    ("unlearned", "unlearned_test_accuracy", "{:.1%}"),
    ("recovered", "recovered_test_accuracy", "{:.1%}"),
    ("retrained", "retrained_test_accuracy", "{:.1%}"),
    ("recovery rounds", "recovery_rounds", "{:.1f}"),
    ("bytes / retraining", "bytes_ratio", "{:.2f}"),
    ("verdict", "verdict", "{}"),
)
BLOCKS = (
    ("forget accuracy", COLUMNS[2:6]),
    ("test accuracy", COLUMNS[6:10]),
    (
        "samples to forget, rounds of recovery, bytes as a share of retraining's, verdict",
        (
            *(COLUMNS[1], ("rounds", "recovery_rounds", "{:.1f}"), ("bytes", "bytes_ratio", "{:.2f}")),
            ("verdict", "verdict", "{}"),
        ),
    ),
)
"""Columns that stand beside each other in a terminal, 80 columns wide, and what they are about."""


def print_summary(summary: Document) -> None:
    """Print the runs, a line each under each subject, mean and standard deviation last."""
    runs = summary["runs"]
    named = [(name, row) for name, row in zip(_names(runs), runs, strict=True)]
    named += [("mean", summary["mean"]), ("standard deviation", summary["standard_deviation"])]
    console = Console(markup=False, highlight=False)
    for subject, columns in BLOCKS:
        table = Table(title=subject, title_justify="left", box=SIMPLE_HEAD)
        table.add_column("forgotten", min_width=18)
        for title, name, _ in columns:
            table.add_column(title.rpartition(": ")[2], justify="left" if name == "verdict" else "right")
        for number, (label, row) in enumerate(named, start=1):
            cells = (_cell(row.get(name), form) for _, name, form in columns)
            table.add_row(label, *cells, end_section=number == len(runs))
        console.print(table)


def _names(runs: Sequence[Document]) -> list[str]:
    """Return what was forgotten in each run, with method and seed where these differ."""
    differ = [name for name in ("method", "seed") if len({row[name] for row in runs}) > 1]
    shown = {"method": "{}", "seed": "seed {}"}
    return [", ".join([str(row["forget"]), *(shown[name].format(row[name]) for name in differ)]) for row in runs]


def markdown(summary: Document) -> str:
    """Return the runs as one Markdown table, mean and standard deviation last."""
    rows = [*summary["runs"], {"forget": "**mean**", **summary["mean"]}]
    rows.append({"forget": "**standard deviation**", **summary["standard_deviation"]})
    lines = ["| " + " | ".join(title for title, _, _ in COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(_cell(row.get(name), form) for _, name, form in COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any, form: str) -> str:
    return "" if value is None else form.format(value)
