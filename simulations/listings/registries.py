"""What can be chosen by name, as rows, from the classes that are registered; and the file in which those of ours are.

    python -m fedquit.simulations.listings.registries     writes built_in.json anew; `make tables` does that

The classes compute with PyTorch, which takes seconds to import; so the commands that list them read the file. Where
another package names methods or objectives of its own, those can only be known by importing it.
"""

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedquit.files import write_whole

Rows = list[dict[str, Any]]
FILE = Path(__file__).with_name("built_in.json")
GROUPS = ("fedquit.methods", "fedquit.objectives")
"""Groups of entry points in which other packages name theirs."""


def listed(kind: str) -> Rows:
    """Return the rows of a kind: "methods", "objectives", "strategies" or "codecs".

    >>> [row["name"] for row in listed("codecs")]
    ['top-k', 'svd', 'fp16', 'int8', 'zstd']
    """
    group = f"fedquit.{kind}"
    if group in GROUPS and importlib.metadata.entry_points(group=group):
        return REGISTRIES[kind]()
    rows: Rows = json.loads(FILE.read_text(encoding="utf-8"))[kind]
    return rows


def built_in() -> dict[str, Rows]:
    """Return the rows of everything of ours."""
    from fedquit.client.objectives.base.objective import OBJECTIVES
    from fedquit.unlearning.methods.base import METHODS

    ours: Mapping[str, Mapping[str, object]] = {"methods": METHODS, "objectives": OBJECTIVES}
    rows = {kind: registered() for kind, registered in REGISTRIES.items()}
    return {kind: [row for row in each if row["name"] in ours.get(kind, {row["name"]})] for kind, each in rows.items()}


def _methods() -> Rows:
    from fedquit.unlearning.methods.base import all_methods

    return [
        {
            "name": name,
            "runs_at": method.traits.runs_at,
            "granularities": sorted(method.traits.granularities),
            "server_keeps": method.traits.server_keeps,
            "history": method.traits.history,
            "history_interval": method.traits.history_interval,
            "keeps_updates": method.traits.keeps_updates,
            "needs_device": method.traits.needs_device,
            "secure_aggregation": method.traits.secure_aggregation,
            "restarts": method.traits.restarts,
            "summary": method.traits.summary,
            "paper": method.traits.paper,
        }
        for name, method in all_methods().items()
    ]


def _objectives() -> Rows:
    from fedquit.client.objectives import all_objectives

    return [{"name": name, **asdict(objective.traits)} for name, objective in all_objectives().items()]


def _strategies() -> Rows:
    from fedquit.strategies.rules import PRIVACY, RULES, settings_of_rule

    return [
        {"name": name, "setting": setting, "settings": settings_of_rule(rule), **asdict(rule.traits)}
        for setting, rules in (("strategy", RULES), ("dp", PRIVACY))
        for name, rule in rules.items()
    ]


def _codecs() -> Rows:
    from fedquit.client.compression.codecs import CODECS, settings_of_codec

    return [
        {"name": name, "settings": settings_of_codec(codec), **asdict(codec.traits)} for name, codec in CODECS.items()
    ]


REGISTRIES: Mapping[str, Callable[[], Rows]] = {
    "methods": _methods,
    "objectives": _objectives,
    "strategies": _strategies,
    "codecs": _codecs,
}


if __name__ == "__main__":
    write_whole(FILE, (json.dumps(built_in(), indent=1) + "\n").encode())
