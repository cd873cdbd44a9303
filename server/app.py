"""The ServerApps: of a simulation, of `flwr run`, and of a deployment."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedquit.client.data.build_data_and_model import split
from fedquit.client.data.partition_file import save_partition
from fedquit.documents import Listener
from fedquit.errors import FedquitError, InputError
from fedquit.files import temporary_folder
from fedquit.server.lifecycle.training_history import Keep
from fedquit.server.run.loop import Loop
from fedquit.server.run.run_folder import RunFolder
from fedquit.settings import Settings
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.grid.node_identity import KnowsPartitions, Member
from fedquit.strategies.grid.polled_grid import PolledGrid

SIMULATED = 7 * 86_400.0
"""Seconds that a simulation waits for replies: its devices may take long, but not for ever."""
FIRST = 60.0
"""Seconds that a deployment waits for replies before its workplace has read server.toml."""


def make_app(
    folder: RunFolder, listener: Listener, *, only: Collection[str] | None = None, keep: Keep | None = None
) -> ServerApp:
    """Return the ServerApp of the run in `folder`; for the other arguments see `Loop` and `Loop.run`."""
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        settings = folder.settings()
        metered = MeteredGrid(grid, known_members(grid, settings), patience=SIMULATED)
        Loop(metered, settings, folder, listener, keep).run(only)

    return server_app


def known_members(grid: Grid, settings: Settings) -> dict[int, Member] | None:
    """Return which member each node of the in-process engine is; None: another engine, whose nodes must be asked.

    Asking every node would make clients that no round samples cost as much as those that it does.
    """
    if not isinstance(grid, KnowsPartitions):
        return None
    sizes = [len(part) for part in split(settings.key())]
    return {node: Member(client, sizes[client]) for node, client in grid.partition_ids().items()}


deployed = ServerApp()


@deployed.main()
def coordinate(grid: Grid, context: Context) -> None:
    """Train, forget and recover for as long as the server runs; the run config's `folder` is the server's."""
    from fedquit.server.coordinator import Coordinator, open_place  # a simulation needs no database

    polled = PolledGrid(grid)
    metered = MeteredGrid(polled, {}, patience=FIRST)
    polled.on_repeat = metered.log_again
    Coordinator(open_place(metered, Path(str(context.run_config["folder"])))).run()


def _print(event: Mapping[str, Any]) -> None:
    """Print an event for `flwr log`."""
    if event["event"] == "round":
        measures = "  ".join(f"{name} {event[name]:.4f}" for name in ("holdout_accuracy", "forget_accuracy"))
        print(f"{event['phase']} round {event['round']}: {measures}", flush=True)  # noqa: T201
    elif event["event"] == "guard":
        print(f"{event['phase']}: the guard's verdict: {event['verdict']} {event['off']}".rstrip(), flush=True)  # noqa: T201
        if event["warning"]:
            print(f"{event['phase']}: warning: {event['warning']}", flush=True)  # noqa: T201
    elif event["event"] == "phase-end":
        print(f"{event['stage']} model: sha256 {event['model_sha256']} ({event['reason']})", flush=True)  # noqa: T201


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Carry out the run of a run config: `flwr run .`; `out` names a folder to keep (a temporary one if empty).

    The number of clients is the number of nodes.
    """
    out = str(context.run_config.get("out", ""))
    metered = MeteredGrid(grid, patience=SIMULATED)
    settings = Settings.from_run_config(context.run_config, len(metered.members))
    with temporary_folder() as temporary:
        path = Path(out).expanduser() if out else Path(temporary) / "run"
        resuming = (path / "settings.json").is_file()
        folder = RunFolder.open(path) if resuming else RunFolder.create(path, settings)
        if not folder.partition_file.exists():
            save_partition(folder.partition_file, split(settings.key()))
        if folder.settings().run_config() | {"partition": ""} != settings.run_config() | {"partition": ""}:
            raise InputError(f"out: the run in {path} has other settings; give another folder to start a new run")
        try:
            state = Loop(metered, settings, folder, _print).run()
        finally:
            folder.release()
        if state.refused:
            raise FedquitError(f"{state.refused}: {state.ended[state.refused]}")
