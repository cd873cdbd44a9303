"""The numbers of a report as a tracker wants them: one level deep, under names that say where they stood."""

from collections.abc import Mapping
from typing import Any

LEFT_OUT = ("per_client_accuracy", "per_class_accuracy", "devices", "thresholds")
"""What has a number for each client or class: it is in the report, which a tracker gets as a file."""


def flat_numbers(document: Any, name: str = "") -> dict[str, float]:
    """Return every number of a JSON document; lists, texts and what is `LEFT_OUT` are not among them.

    >>> flat_numbers({"train": {"rounds": 20, "loss": None}, "devices": {"0": 1.0}, "sum": 0.5})
    {'train/rounds': 20.0, 'sum': 0.5}
    """
    if isinstance(document, Mapping):
        found: dict[str, float] = {}
        for key, value in document.items():
            if key not in LEFT_OUT:
                found |= flat_numbers(value, f"{name}/{key}" if name else str(key))
        return found
    is_number = isinstance(document, int | float) and not isinstance(document, bool)
    return {name: float(document)} if is_number else {}
