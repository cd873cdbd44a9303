"""Carry out the runs of a comparison, several at once, each in a process of its own.

A run waits for the training that it starts from. One that fails, or whose process dies, is reported and the others
continue; what was stopped resumes later from the round that it had reached.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

from fedquit.documents import Listener
from fedquit.processes.chosen_device import choice
from fedquit.processes.worker_context import worker_context
from fedquit.simulations.compare.cells.cell import FAILED, ROUND, is_done, work
from fedquit.simulations.compare.cells.plan_cells import Cell

BEGIN = "begin"
# What every run imports; imported once, where processes are forked from one that has them.
PRELOAD = (
    "fedquit.client.app",
    "fedquit.server.app",
    "fedquit.simulations.simulate.run_report",
    "fedquit.simulations.simulate.run_figures",
    "fedquit.simulations.engine.inprocess",
    "flwr_datasets.partitioner",
    "torch._dynamo",  # else the first optimiser of each process imports it, and its seconds count as the device's
)
DIED = "its process died, perhaps for lack of memory; continue with --resume and fewer --jobs"

CellsProgress = Callable[[Sequence[Cell], Path], AbstractContextManager[Listener]]
"""Shows the progress of cells in a folder while it is open; what it opens to hears of it."""


def run_cells(
    cells: Sequence[Cell], out: Path, *, jobs: int, cores: int, listener: Listener = lambda _event: None
) -> dict[str, str]:
    """Carry out all cells that are not done yet; return why cells failed, by folder.

    Args:
        cells: in the order to begin them in.
        out: the comparison's folder.
        jobs: cells at work at once.
        cores: processes at work at once in all; where fewer cells are ready, each has its clients trained by several.
        listener: gets an event for every round, and for every cell that begins and ends.
    """
    crew = Crew([cell for cell in cells if not is_done(out, cell)], out, cores, listener)
    try:
        while crew.waiting or crew.running:
            crew.begin(jobs - len(crew.running))
            crew.hear()
    finally:
        crew.stop()
    return crew.failed


def first_ready(waiting: Sequence[Cell], unfinished: Collection[str], room: int) -> list[Cell]:
    """Return the first `room` cells whose training is not among the folders in `unfinished`.

    >>> first_ready([], {"seed-0/base"}, 2)
    []
    """
    return [cell for cell in waiting if cell.base not in unfinished][:room]


class Crew:
    """Cells that wait, the processes at work, and what failed."""

    def __init__(self, waiting: list[Cell], out: Path, cores: int, listener: Listener) -> None:
        self.waiting = waiting
        self.running: dict[Connection, tuple[Cell, BaseProcess]] = {}
        self.failed: dict[str, str] = {}
        self._out, self._cores, self._listener = out, cores, listener
        self._context = worker_context(PRELOAD)

    def begin(self, room: int) -> None:
        """Begin up to `room` cells whose training is there."""
        at_work = [cell for cell, _ in self.running.values()]
        ready = first_ready(self.waiting, {cell.folder for cell in [*self.waiting, *at_work]}, room)
        workers = max(1, self._cores // max(1, len(ready) + len(at_work)))
        for cell in ready:
            self.waiting.remove(cell)
            if cell.base in self.failed:
                self._tell(FAILED, cell, f"the training that it starts from failed: {self.failed[cell.base]}")
            else:
                self._begin(cell, workers)

    def _begin(self, cell: Cell, workers: int) -> None:
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=work, args=(theirs, cell, self._out, workers, choice()))
        process.start()
        theirs.close()  # so that the pipe ends with the process
        self.running[ours] = (cell, process)
        self._tell(BEGIN, cell)

    def hear(self) -> None:
        """Wait until some processes have said something, and take it in."""
        for pipe in cast("list[Connection]", wait(list(self.running)) if self.running else []):
            cell, process = self.running[pipe]
            try:
                kind, text = pipe.recv()
            except EOFError:
                kind, text = FAILED, DIED
            if kind != ROUND:
                process.join()
                pipe.close()
                del self.running[pipe]
            self._tell(kind, cell, text)

    def _tell(self, kind: str, cell: Cell, text: str = "") -> None:
        if kind == FAILED:
            self.failed[cell.folder] = text
        self._listener({"event": kind, "cell": cell, "reason": text})

    def stop(self) -> None:
        """End the processes that are still at work; what they finished is kept."""
        for _, process in self.running.values():
            process.terminate()
        for _, process in self.running.values():
            process.join()
