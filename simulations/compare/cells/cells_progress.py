"""Live progress of a comparison on standard error: what is done, what is left, and about when that ends."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedquit.simulations.compare.cells.cell import DONE, FAILED, ROUND, is_done
from fedquit.simulations.compare.cells.plan_cells import Cell


class CompareProgress:
    """Shows cells as they end; use it as a context manager and call it with the events of `run_cells`."""

    def __init__(self, cells: Sequence[Cell], out: Path, console: Console | None = None) -> None:
        left = [cell for cell in cells if not is_done(out, cell)]
        self._total, self._ended = len(cells), len(cells) - len(left)
        self._work = Work({cell.folder: cell.rounds for cell in left})
        self._out = out
        self._began: dict[str, float] = {}
        self._started = time.monotonic()
        self._console = console or Console(stderr=True)
        columns = (
            TextColumn("runs"), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )  # fmt: skip
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bars.add_task("runs", total=self._total, completed=self._ended, note="")

    def __enter__(self) -> Self:
        self._bars.start()
        already = f", {self._ended} of them done already" if self._ended else ""
        self._say(f"{self._total} runs in {self._out}{already}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show an event."""
        cell, now = event["cell"], time.monotonic()
        if event["event"] == ROUND:
            self._work.round(cell.folder)
        elif event["event"] in (DONE, FAILED):
            self._ended += 1
            self._work.end(cell.folder)
            reason = f" ({event['reason']})" if event["event"] == FAILED else ""
            took = f" in {shown_time(now - self._began[cell.folder])}" if cell.folder in self._began else ""
            left = f"; {self._total - self._ended} left{self._left(now)}"
            self._say(f"[{self._ended}/{self._total}] {cell.folder}: {event['event']}{took}{reason}{left}")
        else:
            self._began[cell.folder] = now
        self._bars.update(self._task, completed=self._ended, note=self._left(now).removeprefix(", "))

    def _left(self, now: float) -> str:
        share = self._work.share()
        if not 0 < share < 1:
            return ""
        seconds = (now - self._started) * (1 - share) / share
        return f", about {shown_time(seconds)}, until {shown_end(datetime.now().astimezone(), seconds)}"

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class Work:
    """How much of the rounds that are to come has been done, a cell being as long as it was thought to be.

    >>> work = Work({"a": 4, "b": 4})
    >>> work.round("a"), work.share()
    (None, 0.125)
    >>> work.end("a"), work.share()
    (None, 0.5)
    """

    def __init__(self, rounds: Mapping[str, int]) -> None:
        self._rounds = {folder: max(1, count) for folder, count in rounds.items()}
        self._done = dict.fromkeys(rounds, 0)

    def round(self, folder: str) -> None:
        """Count a round of a cell; one that takes more than was thought is all but done."""
        self._done[folder] = min(self._done[folder] + 1, self._rounds[folder])

    def end(self, folder: str) -> None:
        """Count all of a cell."""
        self._done[folder] = self._rounds[folder]

    def share(self) -> float:
        """Return the share of all rounds that is done; 1 where there is nothing to do."""
        return sum(self._done.values()) / sum(self._rounds.values()) if self._rounds else 1.0


def shown_time(seconds: float) -> str:
    """Return a time as people say it.

    >>> shown_time(42.4), shown_time(600), shown_time(9000)
    ('42 s', '10 min', '2 h 30 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def shown_end(now: datetime, seconds: float) -> str:
    """Return the time of day in `seconds` seconds, with the date if that is another day.

    >>> shown_end(datetime(2026, 11, 30, 23, 0), 1800), shown_end(datetime(2026, 11, 30, 23, 0), 7200)
    ('23:30', '2026-12-01 01:00')
    """
    end = now + timedelta(seconds=seconds)
    return f"{end:%H:%M}" if end.date() == now.date() else f"{end:%Y-%m-%d %H:%M}"
