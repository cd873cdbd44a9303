"""Lists of what can be chosen by name, as tables for people."""

from typing import Any

from rich.console import Console
from rich.table import Table

KINDS = 3
"""Kinds of what can be forgotten: clients, samples, classes."""


def print_methods(rows: list[dict[str, Any]]) -> None:
    """Print the methods and what each needs; "all": clients, samples and classes. Papers are in docs/methods.md."""
    table = Table(box=None, pad_edge=False)
    for column in ("method", "forgets", "server keeps", "device", "sec. agg.", "what it does"):
        table.add_column(column, no_wrap=column in ("method", "device", "sec. agg."))
    for row in rows:
        table.add_row(
            row["name"],
            "all" if len(row["granularities"]) == KINDS else ", ".join(row["granularities"]),
            row["server_keeps"],
            "needed" if row["needs_device"] else "-",
            "works" if row["secure_aggregation"] else "-",
            row["summary"],
        )
    Console().print(table)


def print_objectives(rows: list[dict[str, Any]]) -> None:
    """Print the objectives and what each needs."""
    table = Table(box=None, pad_edge=False)
    for column in ("objective", "down / up", "state on the device", "gates", "what it does"):
        table.add_column(column, no_wrap=column in ("objective", "gates"))
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['down']} / {row['up']}",
            row["keeps"],
            "yes" if row["gated"] else "-",
            f"{row['summary']} ({row['paper']})" if row["paper"] else row["summary"],
        )
    Console().print(table)


def print_codecs(rows: list[dict[str, Any]]) -> None:
    """Print the codecs in the order in which a chain may name them."""
    table = Table(box=None, pad_edge=False)
    for column in ("codec", "settings", "way", "loses", "what it does"):
        table.add_column(column, no_wrap=column == "codec")
    for row in rows:
        table.add_row(
            row["name"],
            ", ".join(f"{key}={str(value).lower()}" for key, value in row["settings"].items()) or "-",
            "up" if row["for_updates"] else "up, down",
            "nothing" if row["exact"] else "digits",
            f"{row['summary']} ({row['paper']})" if row["paper"] else row["summary"],
        )
    Console().print(table)


def print_strategies(rows: list[dict[str, Any]]) -> None:
    """Print the strategies, and the kinds of differential privacy: settings ("…": to be given), state, robustness.

    Papers are in docs/strategies.md.
    """
    for setting in ("strategy", "dp"):
        table = Table(box=None, pad_edge=False)
        for column in (setting, "settings", "server keeps", "faulty clients tolerated", "what it does"):
            table.add_column(column, no_wrap=column in (setting, "settings"))
        for row in (row for row in rows if row["setting"] == setting):
            table.add_row(
                row["name"],
                "\n".join(f"{name}={'…' if default is None else default}" for name, default in row["settings"].items()),
                row["keeps"],
                row["robust"] or "-",
                row["summary"],
            )
        Console().print(table)
