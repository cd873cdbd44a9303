"""The results of a comparison: compare.json has the config, every run, and the rows made from them.

summary.json is the part that the report and its figures are made from: all but the single runs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedquit.documents import Document
from fedquit.simulations.compare.cells.cell import is_done, result
from fedquit.simulations.compare.cells.plan_cells import Cell
from fedquit.simulations.compare.cells.repeat_command import repeat_command
from fedquit.simulations.compare.config.comparison_config import Comparison, Target
from fedquit.simulations.compare.results.cell_measures import measure_references, measure_row
from fedquit.simulations.compare.results.paired_differences import paired_differences
from fedquit.simulations.compare.results.row_statistics import aggregate, pareto_front, points
from fedquit.unlearning.evaluation.verdict import present_rule

SCHEMA_VERSION = 2  # 1: other measures; `rule` says by which rule verdicts were reached
RUN_BY_RUN = ("config", "cells", "references")  # what a summary does without
REFERENCE = "retrained (reference)"
COSTS = {"bytes": "bytes_share", "seconds": "seconds_share"}


def make_results(
    comparison: Comparison, targets: Sequence[Target], cells: Sequence[Cell], out: Path, failed: Mapping[str, str]
) -> Document:
    """Return the document of a comparison whose cells were carried out, as far as they could be.

    Args:
        comparison: its config.
        targets: one by one.
        cells: all of them.
        out: its folder.
        failed: why cells failed, by their folder.
    """
    references = {(cell.seed, cell.target): cell for cell in cells if cell.kind == "references"}
    retrained = [_references_entry(cell, out, failed) for cell in references.values()]
    by_name = {row.name: row for row in comparison.rows}
    entries = [
        _row_entry(
            cell,
            references[cell.seed, cell.target],
            repeat_command(comparison, by_name[cell.row], cell.seed, cell.target),
            out,
            failed,
        )
        for cell in cells
        if cell.kind == "row"
    ]
    rows = [aggregate(row.name, [entry for entry in entries if entry["row"] == row.name]) for row in comparison.rows]
    methods = {row.name: row.method for row in comparison.rows}
    return {
        "schema_version": SCHEMA_VERSION,
        "title": comparison.title,
        "source": comparison.source,
        "file": comparison.file(),
        "config": comparison.document(),
        "targets": [list(target) for target in targets],
        "versions": _versions(cells, out),
        "rule": present_rule(),
        "rows": [{"method": methods[row["name"]], **row} for row in rows],
        "reference": aggregate(REFERENCE, retrained),
        "paired": paired_differences([row.name for row in comparison.rows], entries),
        "pareto_front": {name: pareto_front(points(rows, cost)) for name, cost in COSTS.items()},
        "cells": entries,
        "references": retrained,
        "failed": sum(is_failed(entry) for entry in [*entries, *retrained]),
        "failures": [f"{entry['folder']}: {entry['failed']}" for entry in [*retrained, *entries] if is_failed(entry)],
    }


def summary_of(document: Mapping[str, Any]) -> Document:
    """Return the results without the single runs: all that the report and its figures show.

    >>> summary_of({"rows": ["a row"], "cells": ["a run", "another"]})
    {'rows': ['a row']}
    """
    return {key: value for key, value in document.items() if key not in RUN_BY_RUN}


def note_of_rule(document: Mapping[str, Any]) -> str:
    """Return a note that the verdicts were not reached by the present rule; "": they were, or there are none.

    Args:
        document: results or their summary. `rule` says by which rule the verdicts were reached; documents from before
            it was noted lack it.

    >>> row = {"verdicts": {"no evidence": 2}}
    >>> note_of_rule({"rows": [row], "rule": present_rule()}), note_of_rule({"rows": [{"verdicts": {}}]})
    ('', '')
    >>> note_of_rule({"rows": [row]})[:65]
    'The verdicts were reached by an earlier rule, not by this version'
    """
    if not any(row["verdicts"] for row in document["rows"]) or document.get("rule") == present_rule():
        return ""
    which = "another" if "rule" in document else "an earlier"
    return (
        f"The verdicts were reached by {which} rule, not by this version's, and cannot be compared with this version's "
        "verdicts. If the folder of the comparison still exists, `fedquit compare --resume` judges its runs again."
    )


def is_failed(entry: Document) -> bool:
    """Say whether a cell has nothing to show.

    >>> is_failed({"failed": "its process died"})
    True
    """
    return entry["failed"] is not None


def _row_entry(cell: Cell, references: Cell, command: str, out: Path, failed: Mapping[str, str]) -> Document:
    reason = _reason(cell, out, failed)
    if reason is None and _reason(references, out, failed):
        reason = f"there are no retrained models to compare with: {_reason(references, out, failed)}"
    measures = None if reason else measure_row(result(out, cell), result(out, references))
    return {**_entry(cell, reason, measures), "command": command}


def _references_entry(cell: Cell, out: Path, failed: Mapping[str, str]) -> Document:
    reason = _reason(cell, out, failed)
    return _entry(cell, reason, None if reason else measure_references(result(out, cell)))


def _entry(cell: Cell, reason: str | None, measures: Document | None) -> Document:
    return {
        "row": cell.row or REFERENCE,
        "target": list(cell.target),
        "seed": cell.seed,
        "folder": cell.folder,
        "failed": reason,
        "measures": measures,
    }


def _reason(cell: Cell, out: Path, failed: Mapping[str, str]) -> str | None:
    """Return why a cell failed; None if it did not."""
    return None if is_done(out, cell) else " ".join(failed.get(cell.folder, "it was not carried out").split())


def _versions(cells: Sequence[Cell], out: Path) -> Document:
    """Return the versions of what carried the first cell out."""
    done = next((cell for cell in cells if is_done(out, cell)), None)
    return dict(result(out, done)["versions"]) if done else {}
