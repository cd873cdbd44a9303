"""The rows of a comparison as a table: in full as Markdown, the essential columns for a terminal."""

from collections.abc import Sequence

from fedquit.documents import Document
from fedquit.simulations.compare.report.columns import columns_of, verdicts


def markdown(rows: Sequence[Document]) -> str:
    r"""Return the rows as a Markdown table.

    >>> row = {"name": "a|b", "cells": 1, "measures": {"tow": {"mean": 0.5, "sd": 0.1, "n": 2}},
    ...        "verdicts": {}, "failed": [], "over_budget": 0}
    >>> print(markdown([row]))
    | method | ToW |
    |---|---|
    | a\|b | 0.500 ± 0.100 |
    """
    columns = columns_of(rows)
    lines = [["method", *(column.heading for column in columns)]]
    lines += [[escaped(row["name"]), *(column.shown(row) for column in columns)] for row in rows]
    shown = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([shown[0], "|---" * (len(columns) + 1) + "|", *shown[1:]])


def escaped(text: str) -> str:
    r"""Return text that Markdown shows as it is, in a table too.

    >>> print(escaped("a|b<c*"))
    a\|b\<c\*
    """
    return "".join(f"\\{letter}" if letter in "\\|<>*_`[]#" else letter for letter in text)


def print_results(document: Document) -> None:
    """Print the essential columns, the Pareto fronts and what failed."""
    from rich.console import Console
    from rich.table import Table

    rows = [*document["rows"], document["reference"]]
    table = Table(title=document["title"], title_justify="left", box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    columns = [column for column in columns_of(rows) if column.essential]
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["name"], *(column.shown(row) for column in columns))
    console = Console(markup=False, highlight=False)
    console.print(table)
    for row in document["rows"]:
        if verdicts(row):
            console.print(f"Verdicts, {row['name']}: {verdicts(row)}", soft_wrap=True)
    for cost, names in document["pareto_front"].items():
        console.print(f"On the Pareto front of gap against {cost}: {', '.join(names) or 'none'}")
    for reason in document["failures"]:
        console.print(f"Failed: {reason}", soft_wrap=True)
