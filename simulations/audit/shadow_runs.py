"""Make the shadow models of a run, with the engine that made the run: several at once, resumed after a kill."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedquit.client.training.build_method import method_of
from fedquit.client.training.build_objective import check_global_model
from fedquit.documents import Document
from fedquit.errors import FedquitError, InputError
from fedquit.processes.cores import cores
from fedquit.server.run.run_folder import RunFolder
from fedquit.simulations.audit.shadow_design import ShadowRun, shadow_run
from fedquit.simulations.audit.shadow_folder import LIST, ShadowFolder
from fedquit.simulations.compare.cells.cell import DONE
from fedquit.simulations.compare.cells.plan_cells import Cell
from fedquit.simulations.compare.cells.run_cells import CellsProgress, run_cells


def make_shadows(
    run: Path,
    models: int,
    *,
    plain: bool = False,
    out: Path | None = None,
    jobs: int | None = None,
    overwrite: bool = False,
    progress: CellsProgress,
) -> tuple[Path, Document]:
    """Make the shadow models of a run that are not there yet; return their list's file, and the list.

    Args:
        run: its folder.
        models: how many there should be, an even number.
        plain: do not make them forget what they were trained on.
        out: folder for them; `shadows` or `shadows-plain` in the run's if None.
        jobs: runs at work at once; as many as cores if None.
        overwrite: replace the shadow models in `out`.
        progress: from the runs and the folder to the listener of events.

    Raises:
        InputError: something given cannot be used; nothing was written.
        FedquitError: some could not be made; those that were are kept.
    """
    if models < 2 or models % 2:
        raise InputError(f"{models} shadow models: give an even number, so that each sample is in half of them")
    settings = RunFolder(run).settings()
    check_global_model(settings, "fedquit shadows")
    method_of(settings)
    runs = [shadow_run(settings, number, plain=plain) for number in range(models)]
    folder = ShadowFolder(out or run / ("shadows-plain" if plain else "shadows"), settings, plain=plain)
    with folder.held(overwrite=overwrite):
        prepared = [(folder.prepare(each), each) for each in runs]
        failed = _carry_out(folder, [(cell, each) for cell, each in prepared if cell], jobs, progress)
    for name, reason in failed.items():
        raise FedquitError(
            f"{len(failed)} of {models} shadow models could not be made, {name} for one: {reason}; "
            "those that could are kept, and the same command tries the others again"
        )
    return folder.path / LIST, folder.document


def _carry_out(
    folder: ShadowFolder, wanted: Sequence[tuple[Cell, ShadowRun]], jobs: int | None, progress: CellsProgress
) -> dict[str, str]:
    """Carry out the runs and keep each model as it comes; return why some failed, by name."""
    if not wanted:
        return {}
    cells, runs = [cell for cell, _ in wanted], {cell.folder: run for cell, run in wanted}
    with progress(cells, folder.path) as shown:

        def hear(event: Mapping[str, Any]) -> None:
            if event["event"] == DONE:
                folder.keep(runs[event["cell"].folder])
            shown(event)

        return run_cells(cells, folder.path, jobs=jobs or cores(), cores=1, listener=hear)
