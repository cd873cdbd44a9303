"""`fedquit simulate`: settings in, a folder and a report out."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedquit.documents import Document, Listener
from fedquit.errors import InputError
from fedquit.processes.cores import cores
from fedquit.settings import Settings

Run = Callable[[Any], None]


def run_simulation(
    given: Mapping[str, Any],
    *,
    source: str = "settings",
    engine: str = "inprocess",
    address: str = "",
    workers: int | None = None,
    stack: str = "off",
    out: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    start: Path | None = None,
    listener: Listener = lambda _event: None,
    only: Collection[str] | None = None,
    keep: Collection[Any] = (),
    leak: bool = False,
    export: Path | None = None,
) -> tuple[Path, Document]:
    """Carry out a run, or resume one; return its folder and its report.

    Args:
        given: the settings that differ from the defaults.
        source: where they come from, for errors.
        engine: "inprocess" or "flower".
        address: of the Ray cluster of engine "flower"; "": one is begun here, and ends with the run.
        workers: clients at work at once; the number of cores that this process may use if None.
        stack: clients that are trained at once, as `stack_size` reads it; the models differ by rounding.
        out: the run's folder; runs/DATE-TIME if None.
        resume: continue the run in `out`.
        overwrite: replace the run in `out`.
        start: folder of a finished run whose training is taken over.
        listener: called with every event.
        only: the phases to carry out, if not all; the report then says what there is so far, and is not written.
        keep: methods that others will run on this training, by name or as `Method.needs` says it: what they need
            of it is kept.
        leak: whether the report says what the last request told.
        export: npz file for an implementation outside fedquit, see `export_partition`; None: none.

    Raises:
        InputError: something given cannot be used; nothing was written.
        FedquitError: the run could not be finished; what was finished is kept.
    """
    if resume and out is None:
        raise InputError("--resume needs --out DIR, the folder of the run to resume")
    path = out or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    settings = _settings_to_resume(path, given, source) if resume else Settings.read(given, source)
    from fedquit.client.data.build_data_and_model import check_split
    from fedquit.simulations.engine.stack import check_stack
    from fedquit.simulations.simulate.export_partition import check_export, export_partition
    from fedquit.unlearning.tensors.accelerator import computed_on

    check_stack(stack)
    if export is not None:
        check_export(export, settings)
    _check_engine(engine, address, workers, stack)
    computed_with = {**computed_on(), "stack": stack}  # a device that is not here is refused
    check_split(settings)  # before the workers start; all else is looked at while they do
    workers = workers or cores()
    with _engine(engine, settings, path, workers, address) as (run, grid):
        found = _stacked(grid, stack, settings, path if resume else None, listener)
        kept = _kept_for(keep, settings)
        parts = _try_out(settings, kept)
        folder = _folder(path, settings, parts, resume=resume, overwrite=overwrite, start=start)
        try:
            folder.compute_with(computed_with, found)
            from fedquit.server.app import make_app
            from fedquit.simulations.simulate.run_report import make_report, write_report

            listener({"event": "opened", "folder": str(path), "settings": settings.run_config()})
            run(make_app(folder, listener, only=only, keep=kept))
            listener({"event": "report"})
            document = write_report(folder, leak=leak) if only is None else make_report(folder, folder.load_state())
            if export is not None:
                export_partition(export, folder)
            listener({"event": "finished", "folder": str(path), "report": document})
            return path, document
        finally:
            folder.release()


def _settings_to_resume(path: Path, given: Mapping[str, Any], source: str) -> Settings:
    """Return the settings of the run in `path`; what is given besides must say the same."""
    from fedquit.server.run.run_folder import read_settings

    kept = read_settings(path)
    config = kept.run_config()
    asked = Settings.read({**config, **{key.replace("_", "-"): value for key, value in given.items()}}, source)
    for key, value in asked.run_config().items():
        if value != config[key]:
            raise InputError(
                f"{key}: the run in {path} has {config[key]!r}, not {value!r}; a run resumes with its own settings"
            )
    return kept


def _kept_for(others: Collection[Any], settings: Settings) -> Any:
    """Return what training must keep for the run's own method and these others."""
    from fedquit.client.training.build_method import method_of
    from fedquit.server.lifecycle.training_history import Keep
    from fedquit.unlearning.methods.base import all_methods

    needs = [all_methods()[other].traits if isinstance(other, str) else other for other in others]
    return Keep.of(method_of(settings).needs(), *needs)


def _try_out(settings: Settings, keep: Any) -> tuple[Any, ...]:
    """Load and split the data, find what is to be forgotten, build the model once.

    So mistakes show before anything is written.
    """
    from fedquit.client.compression.build_compression import compression_of
    from fedquit.client.data.build_data_and_model import initial_model, split
    from fedquit.client.data.forget_sets import to_forget
    from fedquit.client.personal.personal_models import check_own_models
    from fedquit.client.training.build_method import method_of
    from fedquit.client.training.build_objective import objective_of
    from fedquit.server.lifecycle.rounds.deferred_step import check_adopt
    from fedquit.server.lifecycle.training_history import check_room
    from fedquit.server.run.phase_rules import rules_of

    objective = objective_of(settings)
    check_adopt(settings, method_of(settings))
    compression_of(settings)
    parts = split(settings.key())
    for request in range(settings.num_requests):
        to_forget(settings.key(), request)
    rules_of(settings)
    needs = objective.needs()
    if needs.owns:
        check_own_models(settings)
    if needs.shares == "model":
        model = initial_model(settings, settings.seed_of_model)
        objective.check(model)
        check_room(settings, keep, model.state_dict())
    return parts


def _folder(
    path: Path, settings: Settings, parts: tuple[Any, ...], *, resume: bool, overwrite: bool, start: Path | None
) -> Any:
    """Open or make the run's folder, with its split and, if `start` says so, the training of another run."""
    from fedquit.client.data.partition_file import save_partition
    from fedquit.server.run.run_folder import RunFolder
    from fedquit.simulations.simulate.start_from_run import check_start, take_over

    if start is not None:
        if start.resolve() == path.resolve():
            raise InputError("--start and --out are the same folder; give another --out")
        check_start(start, settings)
    folder = RunFolder.open(path) if resume else RunFolder.create(path, settings, overwrite=overwrite)
    if not folder.partition_file.exists():  # also where a run was killed between the two
        save_partition(folder.partition_file, parts)
    if start is not None and not (folder.path / "state.json").exists():
        take_over(start, folder)
    return folder


def _run_config(settings: Settings, path: Path) -> dict[str, Any]:
    """Return the run config of the clients: the split is in the run's folder, and so is what devices keep."""
    folder = settings.device_folder or str((path / "devices").resolve())
    return {**settings.run_config(), "partition": str((path / "partition.json").resolve()), "device-folder": folder}


def _check_engine(name: str, address: str, workers: int | None, stack: str) -> None:
    """Refuse flags that belong to another engine.

    Raises:
        InputError: naming the flag.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers: should be at least 1, got {workers}")
    if name == "flower" and stack != "off":
        raise InputError("--stack is of the in-process engine; leave it out, or leave out --engine flower")
    if address and name != "flower":
        raise InputError("--address is that of a Ray cluster: give --engine flower too")
    if address and workers is not None:
        raise InputError("--workers and --address exclude each other: a cluster serves as many clients as it has CPUs")


@contextmanager
def _engine(name: str, settings: Settings, path: Path, workers: int, address: str) -> Iterator[tuple[Run, Any]]:
    """Yield what runs a ServerApp: on Flower's simulation runtime, or in-process, where the workers start at once.

    In-process, there is its grid too; else None.
    """
    if name == "flower":
        from fedquit.simulations.engine.flower_runtime import run_on_flower

        def run(server_app: Any) -> None:
            run_on_flower(server_app, settings.clients, config, workers=workers, address=address)

        config = _run_config(settings, path)
        yield run, None
        return
    from fedquit.simulations.engine.inprocess import InProcessGrid

    workers = min(workers, settings.clients)
    with InProcessGrid(settings.clients, _run_config(settings, path), workers=workers) as grid:
        yield grid.serve, grid


def _stacked(grid: Any, stack: str, settings: Settings, begun: Path | None, listener: Listener) -> dict[str, str]:
    """Have a grid train as many clients at once as `stack` says, and return what the run notes of it.

    What `auto` comes to may change from version to version, so a resumed run, whose folder is `begun`, keeps the number
    that it noted.
    """
    if stack == "off":
        return {}
    from fedquit.server.run.run_folder import AT_ONCE, ONE_BY_ONE, read_computed
    from fedquit.simulations.engine.stack import stack_size

    noted = read_computed(begun) if begun else {}
    if AT_ONCE in noted:
        grid.stack, reason = int(noted[AT_ONCE]), noted.get(ONE_BY_ONE, "")
    else:
        grid.stack, reason = stack_size(stack, settings)
    listener({"event": "stack", "clients": grid.stack, "reason": reason})
    return {AT_ONCE: str(grid.stack), **({ONE_BY_ONE: reason} if reason else {})}
