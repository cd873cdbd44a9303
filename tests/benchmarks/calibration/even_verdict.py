"""The verdict as it was until its intervals were wider on one side: even intervals, whose shares add up to 5 %."""

from collections.abc import Mapping
from typing import Any

from fedquit.unlearning.evaluation.prediction_interval import quantile
from fedquit.unlearning.evaluation.verdict import WEIGHTS

EVEN = 0.05
LOWER = 0.02
"""A lower level for the same rule, to compare with."""


def outside_even(measures: Mapping[str, Mapping[str, Any]], references: int, level: float = EVEN) -> dict[str, str]:
    """Return the measures that were outside, and on which side: `below` or `above`.

    Args:
        measures: as `Verdict.measures` has them.
        references: how many models the intervals are from.
        level: of all measures and both sides together.

    >>> outside_even({"forget_loss": {"value": 4.0, "expected": 1.0, "noise": 1.0}}, 5)
    {'forget_loss': 'above'}
    """
    found, whole = {}, sum(WEIGHTS.get(name, 1) for name in measures)
    for name, held in measures.items():
        reach = quantile(1 - level * WEIGHTS.get(name, 1) / whole / 2, references - 1) * held["noise"]
        if abs(held["value"] - held["expected"]) > reach:
            found[name] = "below" if held["value"] < held["expected"] else "above"
    return found
