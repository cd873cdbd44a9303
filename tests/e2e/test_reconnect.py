"""A device whose connection broke comes back by itself: what lies before the server may cut handshakes for a while."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from fedquit.client.data.build_data_and_model import dataset_of
from fedquit.client.device.join import free_port
from fedquit.processes.supervisor import Part, Supervisor
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger
from fedquit.server.provision.federation_plan import read_plan
from fedquit.server.provision.provision import provision
from fedquit.server.serve.serve import START_WITHIN
from fedquit.server.serve.superlink import Flower
from fedquit.settings import Settings
from tests.harness.processes import joined
from tests.harness.waiting import MOST, until

pytestmark = pytest.mark.timeout(MOST)
CUTS = 3
"""Handshakes that are closed one after the other."""


class Forwarder:
    """Passes connections on to a port, or closes each as it comes.

    Attributes:
        cutting: whether it closes them.
        cut: how many it has closed.
        passed: bytes that came back from the server.
    """

    def __init__(self, target: int) -> None:
        self.target, self.cutting, self.cut, self.passed = target, False, 0, 0
        self.open = set[socket.socket]()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listening.getsockname()[1])

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                device, _ = self.listening.accept()
                if self.cutting:
                    self.cut += 1
                    device.close()
                else:
                    threading.Thread(target=self.pass_on, args=(device,), daemon=True).start()

    def pass_on(self, device: socket.socket) -> None:
        with suppress(OSError), device, socket.create_connection(("127.0.0.1", self.target)) as server:
            self.open.add(device)
            back = threading.Thread(target=self.copy, args=(server, device), daemon=True)
            back.start()
            self.copy(device, server)
            back.join()

    def copy(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                self.passed += len(content) if to in self.open else 0
                to.sendall(content)
        for end in (source, to):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def break_off(self) -> None:
        """Close every connection, and each that comes."""
        self.cutting = True
        for device in list(self.open):
            with suppress(OSError):
                device.shutdown(socket.SHUT_RDWR)


@contextmanager
def superlink(folder: Path, port: int) -> Iterator[None]:
    """Run the SuperLink of a server, which knows its devices."""
    federation = Federation.read(folder)
    flower = Flower(folder, federation)
    flower.prepare()
    (folder / "logs").mkdir()
    supervisor = Supervisor([Part("superlink", flower.superlink(), flower.environment(), port)], folder / "logs")
    supervisor.start(START_WITHIN)
    try:
        ledger = Ledger.open(federation.ledger_url(folder))
        flower.register([member for member in ledger.members() if member.role == "device"])
        ledger.close()
        yield
    finally:
        supervisor.stop()


def test_a_device_comes_back_after_handshakes_were_cut(tmp_path: Path) -> None:
    target = free_port()
    forwarder = Forwarder(target)
    (tmp_path / "federation.toml").write_text(
        f'name = "clinics"\n[server]\nfleet-port = {forwarder.port}\nsuperlink-port = {target}\n'
        f'[training]\nmodel = "mlp"\nclasses = 10\ninput-shape = "1x8x8"\n'
        f'[[device]]\nname = "north"\ndata = "{tmp_path / "own.npz"}"\n'
    )
    data = dataset_of(Settings()).train
    np.savez(tmp_path / "own.npz", x=data.inputs.numpy()[:120], y=data.labels.numpy()[:120])
    provision(read_plan(tmp_path / "federation.toml"), tmp_path / "clinics")
    threading.Thread(target=forwarder.serve, daemon=True).start()
    with ExitStack() as stack:
        stack.callback(forwarder.listening.close)
        stack.enter_context(superlink(tmp_path / "clinics" / "server", target))
        stack.enter_context(joined(tmp_path / "clinics" / "kits" / "north"))
        until(lambda: "SuperNode ID" in log(tmp_path), "connection")
        forwarder.break_off()
        until(lambda: forwarder.cut >= CUTS, "handshakes to cut")
        forwarder.cutting = False
        until(lambda: log(tmp_path).count("SuperNode ID") >= 2, "second connection")
        before = forwarder.passed
        until(lambda: forwarder.passed > before + 2000, "answers of the server to a device that polls")


def log(root: Path) -> str:
    path = root / "clinics" / "kits" / "north" / "logs" / "supernode.log"
    return path.read_text() if path.exists() else ""
