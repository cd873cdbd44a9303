"""The columns of a comparison's table: what each shows of a row, and what it means."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedquit.documents import Document
from fedquit.unlearning.evaluation.verdict import CONSISTENT, NO_EVIDENCE, UNDETERMINED

Summary = Mapping[str, Any] | None
Formatter = Callable[[Document], str]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, what it shows of a row, what it means, and whether a terminal has room for it."""

    heading: str
    shown: Formatter
    meaning: str
    essential: bool = False


def spread_of(found: Summary, scale: float = 100.0, digits: int = 1) -> str:
    """Return mean and standard deviation; nothing where there is no value.

    >>> spread_of({"mean": 0.0123, "sd": 0.004, "n": 6}), spread_of({"mean": 0.5, "sd": None, "n": 1}), spread_of(None)
    ('1.2 ± 0.4', '50.0', '')
    """
    if found is None:
        return ""
    mean = f"{scale * found['mean']:.{digits}f}"
    return mean if found["sd"] is None else f"{mean} ± {scale * found['sd']:.{digits}f}"


def verdicts(row: Document) -> str:
    """Return how many cells are consistent with retraining, and how many there is nothing of.

    >>> verdicts({"cells": 3, "verdicts": {"not consistent": 2}, "failed": ["its process died"]})
    '0 of 2 consistent, 1 failed'
    """
    found = row["verdicts"]
    parts = [f"{found.get(CONSISTENT, 0)} of {sum(found.values())} consistent"] if found else []
    parts += [f"{found[kind]} {kind}" for kind in (NO_EVIDENCE, UNDETERMINED) if kind in found]
    parts += [f"{len(row['failed'])} failed"] if row["failed"] else []
    return ", ".join(parts)


def _mean(name: str, scale: float = 100.0, digits: int = 1) -> Formatter:
    return lambda row: spread_of(row["measures"].get(name), scale, digits)


def _distances(row: Document) -> str:
    found = [row["measures"].get(f"{name}_distance") for name in ("position", "forget_loss", "forget_accuracy")]
    return ", ".join(f"{each['mean']:.1f}" if each else "-" for each in found) if any(found) else ""


def _memorised(row: Document) -> str:
    """Return how much is left of what was memorised, and how often as much as in retrained models."""
    found = row.get("memorised")  # none in results of an earlier version
    return f"{_mean('memorised_left')(row)} ({found['inside']} of {found['tested']} inside)" if found else ""


def _later(row: Document) -> str:
    shown = _mean("later_forget_gap")(row)
    return f"{shown} ({row['over_budget']} of {row['cells']} spent more)" if row["over_budget"] else shown


def _recovered(row: Document) -> str:
    return "" if row.get("recovered") is None else f"{row['recovered']} of {row['cells'] - len(row['failed'])}"


def _course(row: Document) -> str:
    names = ("forget_original", "forget_unlearned", "forget_recovered", "forget_later", "forget_retrained")
    found = [row["measures"].get(name) for name in names]
    return " → ".join(f"{100 * each['mean']:.1f}" for each in found if each)


COLUMNS = (
    Column(
        "forget gap",
        _mean("forget_gap"),
        "distance of forget accuracy after recovery from the retrained models', in points",
        essential=True,
    ),
    Column(
        "position",
        _mean("position", 1, 2),
        "where the model stands between the one before (0) and retrained ones (1), by the confidence in each sample",
        essential=True,
    ),
    Column(
        "in units of noise",
        _distances,
        "distance from the retrained models' mean of position, forget loss and forget accuracy, in standard deviations "
        "of one more retrained model; that of continue says how visible forgetting is here",
    ),
    Column(
        "memorised, left",
        _memorised,
        "how much is left of what the model before had memorised, in % (retrained: 0 on average), and how often that "
        "is inside the interval for one more retrained model; not part of the verdict",
    ),
    Column("at the budget", _later, "forget gap once the budget of bytes is spent"),
    Column("ToW", _mean("tow", 1, 3), "tug of war: product of 1 - gap on forget, retain and test samples; 1 is best"),
    Column(
        "member gap",
        _mean("membership_gap"),
        "distance of the share of forgotten samples that an attack on modified entropy calls members from the "
        "retrained models', in points",
    ),
    Column("test", _mean("test_accuracy"), "test accuracy after recovery, in %", essential=True),
    Column("worst class", _mean("worst_class_accuracy"), "the lowest test accuracy of a class, in %"),
    Column("worst client", _mean("worst_client_accuracy"), "the lowest accuracy on what a client keeps, in %"),
    Column("forget accuracy", _course, "before → unlearned → recovered → at the budget, means in %"),
    Column("resurfaced", _mean("resurfaced"), "forget accuracy at the budget minus that after recovery, in points"),
    Column("recovered", _recovered, "how often held-out accuracy came back near what it was, within the budget"),
    Column("rounds", _mean("recovery_rounds", 1), "rounds of recovery"),
    Column(
        "bytes", _mean("bytes_share"), "payload of forgetting and recovery, in % of one retraining's", essential=True
    ),
    Column(
        "seconds",
        _mean("seconds_share"),
        "processor seconds of the devices in forgetting and recovery, in % of one retraining's",
    ),
    Column(
        "verdict",
        verdicts,
        "requests after which the model cannot be told from retrained ones, and one that forgot nothing can; "
        "no evidence: neither can",
    ),
)


def columns_of(rows: Sequence[Document]) -> list[Column]:
    """Return the columns that some row has something for.

    >>> row = {"measures": {"tow": {"mean": 0.5, "sd": None, "n": 1}}, "over_budget": 0, "verdicts": {}, "failed": []}
    >>> [column.heading for column in columns_of([row])]
    ['ToW']
    """
    return [column for column in COLUMNS if any(column.shown(row) for row in rows)]
