"""Flower's own simulation runtime (Ray) as an engine, running the same two apps in the same way."""

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from flwr.serverapp import ServerApp

from fedquit.errors import InputError
from fedquit.settings import Scalar


def run_on_flower(server_app: ServerApp, clients: int, run_config: Mapping[str, Scalar], *, workers: int) -> None:
    """Run `server_app` with `clients` simulated nodes on Ray, `workers` clients at a time.

    Raises:
        InputError: Ray is not installed.
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray  # noqa: F401
    except ImportError:
        raise InputError("engine flower needs Ray: pip install 'fedquit[ray]', or use --engine inprocess") from None
    from fedquit.client.app import app as client_app
    from fedquit.strategies.flower_internals import simulate

    with tempfile.TemporaryDirectory(prefix="fedquit-") as folder:
        (Path(folder) / "pyproject.toml").write_text(_pyproject(run_config), encoding="utf-8")
        logging.getLogger("flwr").setLevel(logging.WARNING)
        simulate(server_app, client_app, clients, app_folder=folder, workers=workers)


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
