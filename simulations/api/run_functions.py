"""`simulate` and `read_report`: what the commands of these names call, and what Python imports."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedquit.documents import Event
from fedquit.errors import InputError
from fedquit.extras import extras_named
from fedquit.files import read_json
from fedquit.settings import load_settings_file
from fedquit.simulations.api.quiet_progress import Progress, shown, warn_of_tracker
from fedquit.simulations.api.run_result import RunResult
from fedquit.simulations.configs.shipped_configs import find_config
from fedquit.trackers import tracker_names
from fedquit.trackers.tracking import Say

GivenSettings = str | Path | Mapping[str, Any]
ENGINES = ("inprocess", "flower")


@extras_named()
def simulate(
    config: GivenSettings | None = None,
    *,
    engine: str = "inprocess",
    address: str = "",
    workers: int | None = None,
    stack: str | int = "off",
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    start: "str | Path | RunResult | None" = None,
    leak: bool = False,
    export_partition: str | Path | None = None,
    track: str | Sequence[str] = (),
    progress: Progress = None,
    tracker_failed: Say = warn_of_tracker,
    **settings: Any,
) -> RunResult:
    """Train a federation on this machine, have it forget, recover, and compare with retraining.

    `fedquit simulate` is this function. `docs/settings.md` has every setting with its default.

    Args:
        config: a TOML file of settings, the name of a config that ships with fedquit, or a mapping of settings.
        engine: "inprocess" or "flower".
        address: of the Ray cluster that carries out the clients of engine "flower", host and port, or "auto" for the
            one that this machine is in; "": one is begun here.
        workers: clients at work at once; as many as cores if None. 1: all in this process.
        stack: clients that are trained at once, their models stacked: "auto", "off" or a number; results differ by
            rounding.
        out: folder for the results; runs/DATE-TIME if None.
        resume: continue the run in `out`.
        overwrite: replace the run in `out`.
        start: a finished run whose training is taken over, or its folder.
        leak: also measure what the last request reveals to the server and to other devices.
        export_partition: npz file to write for an implementation outside fedquit: samples and clients, initial and
            trained weights, the budget; docs/report.md has its keys.
        track: names of trackers: tensorboard, mlflow, wandb.
        progress: True: shown on standard error; False: not; None: shown if that is a terminal; a function gets the
            events.
        tracker_failed: called with the name of a tracker that fails and why, once; by default a Python warning.
        settings: that differ from the config, by name with underscores: `clients=10, forget=3, local_epochs=2`.

    Returns:
        The run. If the guard refused a model, `refusal` says why, and there is no recovered model.

    Raises:
        InputError: something given cannot be used, or an extra is not installed; nothing was written.
        FedquitError: the run could not be finished; what was finished is kept, for `resume`.

    Example:
        ```python
        from fedquit import simulate

        run = simulate(clients=5, rounds=10, forget=0)
        run.stages["recovered"].forget_accuracy   # a share from 0 to 1
        run.plot().savefig("accuracy.png")
        run.frame()                               # pandas: a row for each measured model
        ```
    """
    from fedquit.simulations.simulate.run_progress import Progress as Bars
    from fedquit.simulations.simulate.run_simulation import run_simulation
    from fedquit.simulations.simulate.track_run import TrackRun

    _check(engine, resume=resume, overwrite=overwrite)
    given, source = _settings(config)
    names = tracker_names(track if isinstance(track, str) else ",".join(track))
    begun = start.folder if isinstance(start, RunResult) else start
    with shown(progress, Bars)() as told, TrackRun(names, tracker_failed) as tracked:

        def listen(event: Event) -> None:
            told(event)
            tracked(event)

        path, document = run_simulation(
            {**given, **settings},
            source=source,
            engine=engine,
            address=address,
            workers=workers,
            stack=str(stack),
            out=None if out is None else Path(out),
            resume=resume,
            overwrite=overwrite,
            start=None if begun is None else Path(begun),
            listener=listen,
            leak=leak,
            export=None if export_partition is None else Path(export_partition),
        )
    return RunResult(path, document)


@extras_named()
def read_report(folder: str | Path) -> RunResult:
    """Return a finished run from its folder; its report is made if it is not there yet (as after `flwr run`).

    Raises:
        InputError: the folder has no run.
        FedquitError: the run is not finished.
    """
    path = Path(folder)
    if (path / "report.json").is_file():
        return RunResult(path, read_json(path / "report.json", "a run's report"))
    from fedquit.server.run.run_folder import RunFolder
    from fedquit.simulations.simulate.run_report import write_report

    opened = RunFolder.open(path)
    try:
        return RunResult(path, write_report(opened))
    finally:
        opened.release()


def _settings(config: GivenSettings | None) -> tuple[Mapping[str, Any], str]:
    """Return the settings of a config, and where they come from, for errors."""
    if config is None or isinstance(config, Mapping):
        return config or {}, "settings"
    return load_settings_file(find_config(Path(config), "simulate")), str(config)


def _check(engine: str, *, resume: bool, overwrite: bool) -> None:
    if engine not in ENGINES:
        raise InputError(f"unknown engine '{engine}'; known: {', '.join(ENGINES)}")
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other")
