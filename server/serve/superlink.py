"""Flower's side of a server: its SuperLink, the app that runs in it, and the nodes that may take part.

The app holds no code of ours: it imports fedquit, which is installed on the server and on each device, and carries the
settings of training to the devices. Everything of Flower's lies in FOLDER/flower.
"""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from cryptography.hazmat.primitives import serialization

from fedquit import __version__
from fedquit.client.device.approved_code import APP_FILES, COMPONENTS
from fedquit.errors import FedquitError, FlowerRefusedError
from fedquit.files import explained, write_whole
from fedquit.server.federation import Federation
from fedquit.server.ledger import Member
from fedquit.server.message_store import DATABASE
from fedquit.strategies.flower_internals import Control

CONNECTION = "fedquit"
PATIENCE = 120.0  # seconds for a command of Flower's
RUNS = 20
"""The number of latest runs that are looked at; only the latest can be at work."""


@dataclass(frozen=True, slots=True)
class Flower:
    """Flower as a server uses it.

    Attributes:
        folder: of the server.
        federation: the server's config.
    """

    folder: Path
    federation: Federation

    @property
    def home(self) -> Path:
        """Where Flower keeps its things."""
        return self.folder / "flower"

    def environment(self) -> dict[str, str]:
        """Return what keeps this Flower apart from any other on the machine."""
        return {
            "FLWR_HOME": str(self.home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def prepare(self) -> None:
        """Write the connection and the app, as the settings now are."""
        app = self.home / "app" / "deployed"
        with explained(app):
            app.mkdir(parents=True, exist_ok=True)
        connection = {
            "address": f"127.0.0.1:{self.federation.server.superlink_port}",
            "root-certificates": str(self.folder / "ca.crt"),
        }
        config = {"superlink": {"default": CONNECTION, CONNECTION: connection}}
        write_whole(self.home / "config.toml", tomli_w.dumps(config).encode())
        write_whole(self.home / "app" / "pyproject.toml", tomli_w.dumps(self._app()).encode())
        for name, text in APP_FILES.items():
            write_whole(self.home / "app" / name, text.encode())

    def _app(self) -> dict[str, Any]:
        return {
            "project": {
                "name": self.federation.name[:32],
                "version": __version__,
                "description": f"the federation {self.federation.name}",
                "license": "Apache-2.0",
                "dependencies": [],
            },
            "tool": {
                "flwr": {
                    "app": {
                        "publisher": "fedquit",
                        "fab-include": ["deployed/*.py"],
                        "components": dict(COMPONENTS),
                        "config": {"folder": str(self.folder), **self.federation.settings().run_config()},
                    }
                }
            },
        }

    def superlink(self) -> list[str]:
        """Return the command that runs the SuperLink, on loopback alone."""
        server = self.federation.server
        return [
            *("flower-superlink", "--host", "127.0.0.1", "--port", str(server.superlink_port)),
            *("--ssl-ca-certfile", str(self.folder / "ca.crt"), "--ssl-certfile", str(self.folder / "server.pem")),
            *("--ssl-keyfile", str(self.folder / "server.key"), "--enable-supernode-auth"),
            *("--database", str(self.folder / DATABASE), "--isolation", "process"),
            "--disable-runtime-dependency-installation",
        ]

    def superexec(self) -> list[str]:
        """Return the command that runs the SuperExec, which starts the ServerApp."""
        address = f"127.0.0.1:{self.federation.server.superlink_port}"
        return [
            *(sys.executable, "-m", "fedquit.processes.hidden_token", "flower-superexec"),
            *("--runtime-api-address", address),
            *("--root-certificates", str(self.folder / "ca.crt")),
        ]

    def register(self, members: Iterable[Member]) -> list[str]:
        """Let these devices in, over one connection, and return why some are refused; one that is in already stays.

        Raises:
            FedquitError: the SuperLink cannot be reached.
        """
        wanted, refused = list(members), list[str]()
        if not wanted:
            return refused
        with self._control() as control:
            known = control.keys()
            for member in wanted:
                if member.fingerprint not in known:
                    try:
                        control.register(_pem(member.key), member.name)
                    except FlowerRefusedError as error:
                        refused.append(str(error))
        return refused

    def shut_out(self, fingerprints: Collection[str]) -> None:
        """Unregister the nodes whose keys have these fingerprints; one that is not in stays out.

        Raises:
            FedquitError: the SuperLink cannot be reached.
        """
        with self._control() as control:
            control.unregister(fingerprints)

    def runs(self) -> dict[int, str]:
        """Return the runs that the SuperLink knows, with their states, such as "running" or "finished:failed"."""
        with self._control() as control:
            return control.runs(RUNS)

    def start_run(self) -> int:
        """Start the app, and return the run's id."""
        document = self._json("run", str(self.home / "app"), CONNECTION)
        return int(document["run-id"])

    def stop_run(self, run: int) -> None:
        """End a run."""
        with self._control() as control:
            control.stop(run)

    def _control(self) -> Control:
        path = self.folder / "ca.crt"
        try:
            authority = path.read_bytes()
        except OSError as error:
            raise FedquitError(f"{path} cannot be read: {error.strerror}; `fedquit provision` makes it") from None
        return Control(f"127.0.0.1:{self.federation.server.superlink_port}", authority)

    def _json(self, *arguments: str) -> dict[str, Any]:
        said = self._call(*arguments, "--format", "json")
        try:
            document: dict[str, Any] = json.loads(said.stdout[said.stdout.index("{") :])
        except ValueError:
            raise FedquitError(f"flwr {arguments[0]} failed: {_last(said)}") from None
        if not document.get("success", False):
            raise FedquitError(f"flwr {arguments[0]} failed: {document.get('error-message', _last(said))}")
        return document

    def _call(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, **self.environment()}
        try:
            return subprocess.run(  # noqa: S603 - our own command
                ["flwr", *arguments],  # noqa: S607 - on the path that we give it
                env=environment, cwd=self.home, capture_output=True, text=True, timeout=PATIENCE, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FedquitError(f"flwr {arguments[0]} failed: {error}") from None


def _pem(der: bytes) -> bytes:
    """Return a public key as Flower reads it."""
    key = serialization.load_der_public_key(der)
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _last(said: "subprocess.CompletedProcess[str]") -> str:
    lines = [line.strip() for line in (said.stdout + said.stderr).splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {said.returncode}"
