"""A comparison of methods, for Python: `compare` and `read_results`, rows with types, figures, DataFrames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedquit.documents import Document
from fedquit.errors import InputError, unknown
from fedquit.extras import extras_named
from fedquit.files import read_json
from fedquit.simulations.api.data_frames import data_frame
from fedquit.simulations.api.quiet_progress import Progress, shown, warn_of_tracker
from fedquit.simulations.api.typed_document import typed
from fedquit.trackers import tracker_names
from fedquit.trackers.flat_numbers import flat_numbers
from fedquit.trackers.tracking import Say

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

CELL = ("row", "seed", "folder", "failed")
FIGURES = ("bytes", "seconds", "groups")


@dataclass(frozen=True, slots=True)
class Spread:
    """A measure over the runs of a row.

    Attributes:
        mean: of the runs.
        sd: sample standard deviation; None: of one run.
        n: number of runs that have the measure.
    """

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """A method of a comparison, over all targets and seeds.

    Attributes:
        name: of the row.
        cells: number of its runs.
        measures: such as `forget_gap` (mean distance of forget accuracy from retraining, a share from 0 to 1) or
            `bytes_share` (of what retraining sends); None where no run has it.
        verdicts: outcome -> number of runs.
        failed: why runs have no result, a line each.
        method: of forgetting; "": none, these are the retrained models.
        recovered: number of runs whose recovery reached its goal; None: there was no recovery.
        over_budget: number of runs that spent more than the budget.
    """

    name: str
    cells: int
    measures: Mapping[str, Spread | None]
    verdicts: Mapping[str, int]
    failed: Sequence[str]
    method: str = ""
    recovered: int | None = None
    over_budget: int = 0


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """A finished comparison; `compare` and `read_results` return it.

    Attributes:
        folder: with compare.json, summary.json, report.md, report.html and figures.
        document: compare.json as it is; of a summary.json, without the single runs.
    """

    folder: Path
    document: Document = field(repr=False)

    @property
    def rows(self) -> list[ComparisonRow]:
        """The methods, in the order of the config."""
        return [_row(row) for row in self.document["rows"]]

    @property
    def reference(self) -> ComparisonRow:
        """The retrained models, as a row: how far they are from each other."""
        return _row(self.document["reference"])

    @property
    def note_of_rule(self) -> str:
        """Says so if the verdicts were reached by another rule than this version's, as in old results; else ""."""
        from fedquit.simulations.compare.results.results_document import note_of_rule

        return note_of_rule(self.document)

    @property
    def failures(self) -> list[str]:
        """Runs without a result, and why; `compare(..., resume=True)` tries them again."""
        return [str(line) for line in self.document["failures"]]

    @extras_named()
    def plot(self, what: str = "bytes") -> "Figure":
        """Draw a figure and return it; nothing is shown, and pyplot is not used.

        Args:
            what: the gap to retraining against "bytes" or "seconds", or the "groups" that fare worst.

        Raises:
            InputError: another name, or no row has been measured.
        """
        from fedquit.simulations.compare.report import comparison_figures as figures
        from fedquit.simulations.compare.results.row_statistics import points

        if what not in FIGURES:
            raise unknown("figure", what, FIGURES)
        rows, reference = self.document["rows"], self.document["reference"]
        if what == "groups" and any(row["measures"]["worst_class_accuracy"] for row in rows):
            return figures.worst_groups([*rows, reference])
        if what != "groups" and points(rows, figures.COSTS[what][0]):
            return figures.gap_against_cost(rows, reference, *figures.COSTS[what])
        raise InputError(f"no row of {self.folder} has been measured: there is nothing to draw")

    def frame(self, of: str = "rows") -> "DataFrame":
        """Return a table of the comparison as a pandas DataFrame.

        Args:
            of: "rows": a row for each method and one for the retrained models, a column for the mean of each measure
                and, with `_sd`, for its standard deviation; "cells": a row for each run.

        Raises:
            InputError: another name, pandas is not installed (the extra `frames`), or a summary has no single runs.
        """
        if of == "rows":
            rows = [*self.document["rows"], self.document["reference"]]
            return data_frame([{"row": row["name"], **_means(row["measures"])} for row in rows], "row")
        if of != "cells":
            raise unknown("table", of, ("rows", "cells"))
        if "cells" not in self.document:
            raise InputError("a summary has no single runs: read the compare.json of the comparison")
        cells = [
            {
                **{name: cell[name] for name in CELL},
                "target": str(cell["target"]),
                **flat_numbers(cell["measures"] or {}),
            }
            for cell in self.document["cells"]
        ]
        return data_frame(cells, "row")


@extras_named()
def compare(
    config: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    jobs: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    track: str | Sequence[str] = (),
    progress: Progress = None,
    tracker_failed: Say = warn_of_tracker,
) -> ComparisonResult:
    """Compare methods of forgetting: every method on every request, with several seeds and equal budgets.

    `fedquit compare` is this function.

    Args:
        config: a TOML file, the name of a config that ships with fedquit, or what such a file holds.
        out: folder for the results; runs/compare-DATE-TIME if None.
        jobs: runs at work at once; as many as cores if None.
        resume: continue the comparison in `out`.
        overwrite: replace the comparison in `out`.
        track: names of trackers: tensorboard, mlflow, wandb.
        progress: True: shown on standard error; False: not; None: shown if that is a terminal; a function gets the
            events.
        tracker_failed: called with the name of a tracker that fails and why, once; by default a Python warning.

    Returns:
        The comparison; runs that failed are in `failures`.

    Raises:
        InputError: something given cannot be used, or an extra is not installed; nothing was written.
        FedquitError: it could not be finished; what was finished is kept, for `resume`.

    Example:
        ```python
        from fedquit import compare

        found = compare({"targets": [0], "seeds": [0, 1], "methods": {"fedquit": {}, "negate": {}}})
        found.frame()["forget_gap"]     # pandas: mean distance from retraining, a share from 0 to 1
        found.plot("bytes")
        ```
    """
    from fedquit.simulations.compare.cells.cells_progress import CompareProgress
    from fedquit.simulations.compare.comparison import run_comparison

    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other")
    path, document = run_comparison(
        config if isinstance(config, Mapping) else Path(config),
        out=None if out is None else Path(out),
        jobs=jobs,
        resume=resume,
        overwrite=overwrite,
        progress=shown(progress, CompareProgress),
        trackers=tracker_names(track if isinstance(track, str) else ",".join(track)),
        say=tracker_failed,
    )
    return ComparisonResult(path, document)


@extras_named()
def read_results(path: str | Path) -> ComparisonResult:
    """Return a finished comparison from its folder, its compare.json or its summary.json.

    Raises:
        InputError: there is none, or it is of another version.
    """
    given = Path(path)
    inside = [file for file in (given / "compare.json", given / "summary.json") if file.is_file()]
    file = inside[0] if inside else given
    from fedquit.simulations.compare.report.report_files import read_results_file

    read_results_file(file)
    return ComparisonResult(file.parent, read_json(file, "a comparison's results"))


def _row(document: Mapping[str, Any]) -> ComparisonRow:
    measures = {name: found and typed(Spread, found) for name, found in document["measures"].items()}
    return typed(ComparisonRow, {**document, "measures": measures})


def _means(measures: Mapping[str, Any]) -> Document:
    """Return the mean and the standard deviation of each measure that there is."""
    found = {name: value for name, value in measures.items() if value}
    return {
        key: value for name in found for key, value in ((name, found[name]["mean"]), (f"{name}_sd", found[name]["sd"]))
    }
