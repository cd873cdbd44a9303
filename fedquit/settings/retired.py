"""Settings that no longer exist, which older folders and configs still name, and one that is refused."""

from collections.abc import Mapping
from typing import Any

from fedquit.errors import InputError

RETIRED = {
    "secure-aggregation": (
        False,
        "no longer a setting: Flower has secure aggregation for its older interface only, and with masks that a server "
        "can guess (docs/strategies.md, Secure aggregation); leave it out",
    ),
    "together": (
        1,
        "requests are served one after the other, as serving several in one step would hide little (docs/threats.md, "
        "Requests together); leave it out",
    ),
}
"""The value that said nothing, and why there is no other."""
UNSAID = {"guard": "adopt"}
"""What runs did before there was the setting, where that is not its default. What a run writes down is complete."""


def without_retired(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given without settings that are retired and say nothing.

    Raises:
        InputError: one of them says something.

    >>> without_retired({"lr": 0.1, "secure-aggregation": False})
    {'lr': 0.1}
    """
    kept = {}
    for name, value in given.items():
        key = name.replace("_", "-")
        if key not in RETIRED:
            kept[name] = value
        elif value != RETIRED[key][0]:
            raise InputError(f"{key}: {RETIRED[key][1]}")
    return kept
