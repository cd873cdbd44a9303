"""Flower's own simulation runtime (Ray) as an engine, running the same two apps in the same way."""

import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from flwr.serverapp import ServerApp

from fedquit.errors import InputError
from fedquit.files import temporary_folder
from fedquit.settings import Scalar

SECONDS = 10.0
"""In which a cluster must take a connection."""


def run_on_flower(
    server_app: ServerApp, clients: int, run_config: Mapping[str, Scalar], *, workers: int, address: str = ""
) -> None:
    """Run `server_app` with `clients` simulated nodes on Ray.

    Args:
        server_app: the server's side.
        clients: of the federation.
        run_config: of the run.
        workers: clients at a time, on this machine.
        address: of an existing Ray cluster, which runs as many clients at once as it has CPUs; "": start Ray here.

    Raises:
        InputError: Ray is not installed, or there is no cluster at this address.
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray  # noqa: F401
    except ImportError:
        raise InputError("engine flower needs Ray: pip install 'fedquit[ray]', or use --engine inprocess") from None
    if address:
        _join_cluster(address)
    from fedquit.client.app import app as client_app
    from fedquit.strategies.flower_internals import simulate

    with temporary_folder() as folder:
        (Path(folder) / "pyproject.toml").write_text(_pyproject(run_config), encoding="utf-8")
        logging.getLogger("flwr").setLevel(logging.WARNING)
        simulate(server_app, client_app, clients, app_folder=folder, workers=workers)


def _join_cluster(address: str) -> None:
    """Connect to an existing Ray cluster, so that Flower does not start one.

    Raises:
        InputError: there is none at this address.
    """
    import ray

    try:
        if address != "auto":  # where nobody listens, Ray tries for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=SECONDS).close()
        ray.init(address=address, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"--address {address}: cannot connect to a Ray cluster ({reason}); see `ray status`") from None


def _pyproject(run_config: Mapping[str, Scalar]) -> str:
    """Return the app description from which Flower's runtime takes the run config of the clients."""
    lines = [f"{key} = {_toml(value)}" for key, value in run_config.items()]
    return "\n".join(
        [
            '[project]\nname = "fedquit"\nversion = "0"\n[tool.flwr.app]\npublisher = "fedquit"',
            '[tool.flwr.app.components]\nserverapp = "fedquit.server.app:app"\nclientapp = "fedquit.client.app:app"',
            "[tool.flwr.app.config]",
            *lines,
            "",
        ]
    )


def _toml(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
