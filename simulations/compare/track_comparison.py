"""A comparison as trackers see it: a run of its own with the rows, and in it a run for each cell.

A cell is told when it is done, with all its rounds; one that was done before `--track` was given is told in the end.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedquit.server.run.run_folder import read_settings
from fedquit.simulations.compare.cells.cell import DONE, is_done, result
from fedquit.simulations.compare.cells.plan_cells import Cell
from fedquit.simulations.compare.report.report_files import REPORT, SUMMARY
from fedquit.simulations.simulate.track_run import TrackRun
from fedquit.trackers import TrackedRun, Tracking
from fedquit.trackers.flat_numbers import flat_numbers
from fedquit.trackers.tracking import Say, tracked_ids


class TrackComparison:
    """Follows a comparison; use it as a context manager, and call it with the events of `run_cells`.

    Args:
        names: of the trackers.
        say: told of a tracker that fails, once.
        title: of the comparison.
        cells: all of them.
        out: its folder.
    """

    def __init__(self, names: Sequence[str], say: Say, title: str, cells: Sequence[Cell], out: Path) -> None:
        self._left, self._say, self._title, self._cells, self._out = list(names), say, title, cells, out
        self._main = Tracking(names, TrackedRun(name=title, folder=out), self._fail) if names else None

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Tell of a cell that is done."""
        if event["event"] == DONE:
            self._track(event["cell"])

    def finish(self, document: Mapping[str, Any]) -> None:
        """Tell of the cells that are left, and of the results."""
        if self._main is None:
            return
        for cell in self._cells:
            if is_done(self._out, cell):
                self._track(cell)
        config = document["config"]
        told = {key: config[key] for key in config if isinstance(config[key], bool | int | float | str)}
        self._main.settings({**told, "title": document["title"], "source": document["source"]})
        rows = [*document["rows"], document["reference"]]
        self._main.results(flat_numbers({slug(row["name"]): _measures(row) for row in rows}))
        self._main.facts({f"versions/{name}": str(version) for name, version in document["versions"].items()})
        for path in (self._out / SUMMARY, self._out / REPORT, *sorted(self._out.glob("*.png"))):
            self._main.file(path)

    def __enter__(self) -> "TrackComparison":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._main is not None:
            self._main.end(finished=kind is None)

    def _track(self, cell: Cell) -> None:
        """Tell trackers of a cell that they do not know, all at once."""
        folder = self._out / cell.folder
        names = [name for name in self._left if name not in tracked_ids(folder)]
        if self._main is None or not names:
            return
        with TrackRun(names, self._fail, name=cell.folder, group=self._title, parents=self._main.ids) as tracked:
            tracked.open(folder, read_settings(folder).run_config())
            tracked.report(result(self._out, cell), folder)

    def _fail(self, name: str, reason: str) -> None:
        if name in self._left:
            self._left.remove(name)
            self._say(name, reason)


def slug(name: str) -> str:
    """Return a row's name in characters that every tracker takes.

    >>> slug("retrained (reference)")
    'retrained-reference'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _measures(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's means, and how often each verdict was reached."""
    means = {name: found["mean"] for name, found in row["measures"].items() if found}
    return {**means, "verdicts": {slug(outcome): number for outcome, number in row["verdicts"].items()}}
