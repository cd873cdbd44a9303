"""Rows from cells: mean and standard deviation over targets and seeds, verdicts counted, and the Pareto front.

Gaps are averaged by size: one above and one below retraining do not make a method that hits it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from fedquit.documents import Document

DISTANCES = ("position_distance", "forget_loss_distance", "forget_accuracy_distance", "test_accuracy_distance")
SIGNED = ("forget_gap", "retain_gap", "test_gap", "membership_gap", "later_forget_gap", *DISTANCES)
PLAIN = (
    "tow",
    "position",
    "memorised_left",
    "reference_spread",
    "resurfaced",
    "test_accuracy",
    "worst_class_accuracy",
    "worst_client_accuracy",
    "recovery_rounds",
    "budget_used",
    "bytes_share",
    "seconds_share",
)
ROUNDING = 0.001  # messages differ by a few bytes

Point = tuple[float, float]


def aggregate(name: str, cells: Sequence[Mapping[str, Any]]) -> Document:
    """Return a row: each measure's mean, sample standard deviation (None for a single one) and how many there are.

    Args:
        name: of the row.
        cells: each with its "measures", or None there and why it "failed".

    >>> aggregate("negate", [{"measures": {"tow": 0.5}, "failed": None}])["measures"]["tow"]
    {'mean': 0.5, 'sd': None, 'n': 1}
    """
    measured = [cell["measures"] for cell in cells if cell["measures"] is not None]
    columns = {name: [_sized(name, found.get(name)) for found in measured] for name in (*SIGNED, *PLAIN)}
    stages = {stage: None for found in measured for stage in found.get("forget_accuracy", {})}
    columns |= {f"forget_{stage}": [found["forget_accuracy"].get(stage) for found in measured] for stage in stages}
    return {
        "name": name,
        "cells": len(cells),
        "measures": {column: summary(values) for column, values in columns.items()},
        "verdicts": dict(Counter(found["verdict"]["outcome"] for found in measured if "verdict" in found)),
        "memorised": inside_of([found["memorised"] for found in measured if found.get("memorised")]),
        "recovered": _count([found["goal_reached"] for found in measured if "goal_reached" in found]),
        "over_budget": sum((found.get("budget_used") or 0) > 1 + ROUNDING for found in measured),
        "failed": [cell["failed"] for cell in cells if cell["failed"] is not None],
    }


def inside_of(found: Sequence[Document]) -> Document | None:
    """Return in how many cells what is left of what was memorised was tested, and inside; None if in none.

    >>> inside_of([{"left": {"inside": True}}, {"left": None}])
    {'tested': 1, 'inside': 1}
    """
    held = [each["left"] for each in found if each["left"]]
    return {"tested": len(held), "inside": sum(each["inside"] for each in held)} if held else None


def summary(values: Sequence[float | None]) -> Document | None:
    """Return mean, sample standard deviation and number of the values that are known; None if none is.

    >>> summary([1.0, 3.0, None])
    {'mean': 2.0, 'sd': 1.4142135623730951, 'n': 2}
    """
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    return {"mean": fmean(known), "sd": stdev(known) if len(known) > 1 else None, "n": len(known)}


def pareto_front(points: Mapping[str, Point]) -> list[str]:
    """Return the names that nothing beats: no other is as good in both numbers and better in one; less is better.

    In the order of the first number.

    >>> pareto_front({"slow and good": (0.9, 0.1), "fast and bad": (0.1, 0.9), "slow and bad": (0.9, 0.9)})
    ['fast and bad', 'slow and good']
    """
    front = [name for name, point in points.items() if not any(_beats(other, point) for other in points.values())]
    return sorted(front, key=lambda name: points[name])


def points(rows: Sequence[Document], cost: str) -> dict[str, Point]:
    """Return each row's mean cost and mean gap of forget accuracy, where both are known.

    Args:
        rows: as `aggregate` makes them.
        cost: "bytes_share" or "seconds_share".
    """
    found = {row["name"]: (row["measures"].get(cost), row["measures"].get("forget_gap")) for row in rows}
    return {name: (x["mean"], y["mean"]) for name, (x, y) in found.items() if x and y}


def _beats(one: Point, other: Point) -> bool:
    return one[0] <= other[0] and one[1] <= other[1] and one != other


def _count(goals: Sequence[bool]) -> int | None:
    """Return how many recoveries reached their goal; None where there was none."""
    return sum(goals) if goals else None


def _sized(name: str, value: float | None) -> float | None:
    return abs(value) if name in SIGNED and value is not None else value
