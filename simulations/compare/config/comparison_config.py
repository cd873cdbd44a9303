"""The config of a comparison: methods as rows, whom to forget, the seeds, and the settings that all rows share."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedquit.settings import UNSAID, Part, Settings, keys_of, without_retired

ROW_KEYS = tuple(key for key in keys_of(Part.METHOD, Part.STOP_RULE) if key != "recover-bytes")  # that is for all rows
# Settings that the comparison decides itself, and the key that says so instead.
DECIDED = {
    "forget": "targets",
    "forget-class": "targets",
    "seed": "seeds",
    "reference": "references",
    "references": "references",
    "budget": "budget",
    "method": "[methods.NAME]",
}

UNGUARDED = {"guard": "adopt"}

Target = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One way of forgetting: its name in the table, the method, and the settings (kebab-case) that differ for it."""

    name: str
    method: str
    settings: dict[str, Any]

    @property
    def slug(self) -> str:
        """The name as a folder's.

        >>> Row("FedQUIT, entropy", "fedquit", {}).slug
        'fedquit-entropy'
        """
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@dataclass(frozen=True, slots=True)
class Comparison:
    """A checked comparison.

    Attributes:
        source: the file, for errors.
        title: heads the report.
        targets: each is one request: clients, or class labels; None for every client (class) in turn.
        seeds: of training; split and untrained model have seeds of their own, the same for all.
        references: retrained models for each target and seed.
        budget: ordinary rounds whose bytes every method may spend on a request; 0: each as many as it takes.
        settings: of `fedquit simulate`, kebab-case, the same for all rows.
        rows: what is compared.
    """

    source: str
    title: str
    targets: tuple[Target, ...] | None
    seeds: tuple[int, ...]
    references: int
    budget: int
    settings: dict[str, Any]
    rows: tuple[Row, ...]

    @property
    def granularity(self) -> str:
        """What is forgotten: "client", "sample" or "class"."""
        return str(self.settings.get("granularity", "client"))

    def document(self) -> dict[str, Any]:
        """Return what the file says with every default filled in, as JSON has it: equal for equal comparisons."""
        shared, rows = self._run_configs()
        decided = {*DECIDED, *ROW_KEYS}
        return {
            **self._heads(),
            "settings": {key: value for key, value in shared.items() if key not in decided},
            "methods": {name: {key: config[key] for key in ROW_KEYS} for name, config in rows.items()},
        }

    def file(self) -> dict[str, Any]:
        """Return what the file says and nothing else, as JSON has it: `make_comparison` reads it again."""
        shared, rows = self._run_configs()
        given = {row.name: {"method": row.method, **row.settings} for row in self.rows}
        return {
            **self._heads(),
            "settings": {key: shared[key] for key in self.settings},
            "methods": {name: {key: rows[name][key] for key in row} for name, row in given.items()},
        }

    def _heads(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "targets": "all" if self.targets is None else [list(target) for target in self.targets],
            "seeds": list(self.seeds),
            "references": self.references,
            "budget": self.budget,
        }

    def _run_configs(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Return the settings that all runs share, and by row those of its runs, for the first target and seed."""
        example, seed = self.targets[0] if self.targets else (0,), self.seeds[0]
        rows = {row.name: self.run_settings(example, seed, row_settings(row)).run_config() for row in self.rows}
        return dict(self.run_settings(example, seed, {}).run_config()), {name: dict(row) for name, row in rows.items()}

    def run_settings(self, target: Target, seed: int, own: Mapping[str, Any], source: str = "settings") -> Settings:
        """Return the settings of one run; `own` come on top of those that all share.

        A comparison measures what each method does, also where it breaks the model: the guard looks and reports, and
        adopts, unless the file says otherwise.

        Raises:
            InputError: they cannot be; the error names `source`.
        """
        return Settings.read(
            {**UNGUARDED, **self.settings, **target_settings(self.granularity, target), "seed": seed, **own}, source
        )


def current_document(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a comparison that an earlier version wrote as this version writes it.

    Retired settings are left out, and those that the earlier version had not are what it did.

    Raises:
        InputError: a retired setting says something.
    """
    default = {**Settings().run_config(), **UNSAID}
    shared = {key: value for key, value in default.items() if key not in {*DECIDED, *ROW_KEYS}}
    rows = {name: {**{key: default[key] for key in ROW_KEYS}, **row} for name, row in kept["methods"].items()}
    return {**kept, "settings": {**shared, **without_retired(kept["settings"])}, "methods": rows}


def row_settings(row: Row) -> dict[str, Any]:
    """Return all that a row changes.

    >>> row_settings(Row("FedQUIT", "fedquit", {"patience": 2}))
    {'method': 'fedquit', 'patience': 2}
    """
    return {"method": row.method, **row.settings}


def target_settings(granularity: str, target: Target) -> dict[str, str]:
    """Return the settings that name a target.

    >>> target_settings("client", (0, 3)), target_settings("class", (1,))
    ({'forget': '0,3'}, {'forget-class': '1'})
    """
    return {"forget-class" if granularity == "class" else "forget": ",".join(map(str, target))}
