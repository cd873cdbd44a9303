"""A comparison from its file to its folder: checked, carried out or resumed, measured, drawn and written up."""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedquit.documents import Document, Event
from fedquit.errors import InputError
from fedquit.files import explained, write_json
from fedquit.processes.cores import cores
from fedquit.simulations.compare.cells.comparison_folder import check_folder, comparison_folder
from fedquit.simulations.compare.cells.plan_cells import Cell, plan, replaying_rows
from fedquit.simulations.compare.cells.run_cells import CellsProgress, run_cells
from fedquit.simulations.compare.config.comparison_checks import check_rows, checked_targets
from fedquit.simulations.compare.config.comparison_config import Comparison
from fedquit.simulations.compare.config.read_config import make_comparison, read_comparison
from fedquit.simulations.compare.results.results_document import make_results
from fedquit.simulations.compare.track_comparison import TrackComparison
from fedquit.trackers.tracking import Say


def planned(config: Path) -> list[Cell]:
    """Return the runs that a comparison consists of, checked as far as that needs no data.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    comparison = read_comparison(config)
    return plan(comparison, checked_targets(comparison, with_data=False))


def run_comparison(
    config: Path | Mapping[str, Any],
    *,
    out: Path | None = None,
    jobs: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: CellsProgress,
    trackers: Sequence[str] = (),
    say: Say = lambda _tracker, _reason: None,
) -> tuple[Path, Document]:
    """Carry out a comparison, or resume one; return its folder and its results.

    Args:
        config: its TOML file, or what such a file holds.
        out: its folder; runs/compare-DATE-TIME if None.
        jobs: runs at work at once; as many as cores if None.
        resume: continue the comparison in `out`.
        overwrite: replace the comparison in `out`.
        progress: from the runs and the folder to the listener of events.
        trackers: that follow it.
        say: told of a tracker that fails, once.

    Raises:
        InputError: something given cannot be used; nothing was written.
        FedquitError: it could not be finished; what was finished is kept.
    """
    if resume and out is None:
        raise InputError("--resume needs --out DIR, the folder of the comparison to resume")
    path = out or Path("runs") / time.strftime("compare-%Y%m%d-%H%M%S")
    comparison = make_comparison(config) if isinstance(config, Mapping) else read_comparison(config)
    check_rows(comparison, comparison.targets or ((0,),))
    planned, replaying = comparison.document(), replaying_rows(comparison)
    check_folder(path, planned, resume=resume, overwrite=overwrite, replaying=replaying)
    targets = checked_targets(comparison)
    cells, available = plan(comparison, targets), cores()
    with comparison_folder(path, planned, resume=resume, overwrite=overwrite, replaying=replaying):
        with (
            progress(cells, path) as shown,
            TrackComparison(trackers, say, comparison.title, cells, path) as tracked,
        ):

            def listen(event: Event) -> None:
                shown(event)
                tracked(event)

            failed = run_cells(cells, path, jobs=jobs or available, cores=available, listener=listen)
            document = make_results(comparison, targets, cells, path, failed)
            _write(path, comparison, document)
            tracked.finish(document)
        if not failed:
            _purge(path, cells)
    return path, document


def _write(path: Path, comparison: Comparison, document: Document) -> None:
    from fedquit.simulations.compare.report.report_files import write_report

    write_json(path / "compare.json", document)
    write_report(path, comparison, document)


def _purge(path: Path, cells: Sequence[Cell]) -> None:
    """Remove what training kept for methods that replay it: it contains what was to be erased, and has served.

    A run that starts from a training has that in its folder too; one that only retrains has not removed it itself.
    """
    for cell in cells:
        history = path / cell.folder / "history"
        if history.exists():
            with explained(history):
                shutil.rmtree(history)
