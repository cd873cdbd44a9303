"""One run of a comparison, in a process of its own: what it leaves when it is done, and how its parent hears of it."""

import contextlib
import json
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fedquit.errors import FedquitError
from fedquit.files import write_json
from fedquit.simulations.compare.cells.plan_cells import Cell

RESULT = "cell.json"  # the report of what was carried out; there once the cell is done

ROUND, DONE, FAILED = "round", "done", "failed"


def is_done(out: Path, cell: Cell) -> bool:
    """Say whether a cell of the comparison in `out` was carried out."""
    return (out / cell.folder / RESULT).is_file()


def result(out: Path, cell: Cell) -> dict[str, Any]:
    """Return the report of a cell that is done.

    Raises:
        FedquitError: it cannot be read.
    """
    path = out / cell.folder / RESULT
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FedquitError(f"{path} cannot be read: {error}; remove it and continue with --resume") from None
    return document


def carry_out(cell: Cell, out: Path, workers: int, on_round: Callable[[], None] = lambda: None) -> None:
    """Carry out a cell, from wherever an earlier attempt was killed.

    Raises:
        FedquitError: it could not be finished, or the guard refused its model.
    """
    from fedquit.simulations.simulate.run_report import refusal
    from fedquit.simulations.simulate.run_simulation import run_simulation

    path = out / cell.folder

    def hear(event: Mapping[str, Any]) -> None:
        if event["event"] == "round":
            on_round()

    _, document = run_simulation(
        cell.settings,
        source=cell.folder,
        workers=workers,
        out=path,
        resume=(path / "settings.json").is_file(),
        start=out / cell.base if cell.base else None,
        only=cell.phases,
        keep=cell.keep,
        listener=hear,
    )
    refused = refusal(document)
    if refused:
        raise FedquitError(refused)
    write_json(path / RESULT, document)


def work(pipe: Connection, cell: Cell, out: Path, workers: int, chosen: tuple[str, str]) -> None:
    """Carry out a cell, computing as chosen; report to the parent each round, and that it is done or why it failed."""
    from fedquit.simulations.engine.worker_process import begin_worker

    import_module("torch._dynamo")  # now, as the first optimiser would import it on a device's account of seconds
    begin_worker(*chosen)

    def tell(what: str, said: str = "") -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent has ended, and so will this
            pipe.send((what, said))

    try:
        carry_out(cell, out, workers, on_round=lambda: tell(ROUND))
    except FedquitError as error:
        tell(FAILED, str(error))
    except Exception as error:
        traceback.print_exc()
        tell(FAILED, f"{type(error).__name__}: {error} (a bug in fedquit; see the lines on standard error)")
    else:
        tell(DONE)
