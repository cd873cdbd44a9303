"""A federation with two devices and an operator, one round trained, and its forget service on loopback with TLS."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedquit.client.kit import Kit
from fedquit.client.requests.channel import ForgetService
from fedquit.client.requests.keys import PrivateKey, read_private
from fedquit.server.ledger import FORGOTTEN, Contribution, Ledger, Step
from fedquit.server.ledger.audit_log.seal import read_seal
from fedquit.server.provision.federation_plan import read_plan
from fedquit.server.provision.provision import provision
from fedquit.server.service.admission import Rules
from fedquit.server.service.grpc_server import ForgetServer
from fedquit.server.service.limits import Rate
from fedquit.server.service.servicer import Servicer
from tests.harness.waiting import STILL

TOLD = 'name = "clinics"\n[[device]]\nname = "north"\n[[device]]\nname = "south"\n[[operator]]\nname = "operator"\n'
EXAMPLES = {0: 100, 1: 50}


@dataclass
class World:
    """What a test needs of a federation."""

    folder: Path
    ledger: Ledger
    keys: dict[str, PrivateKey]
    rules: Rules = field(default_factory=lambda: Rules("clinics"))
    server: ForgetServer | None = None

    def start(self, rate: Rate | None = None) -> ForgetServer:
        server = self.server = ForgetServer.start(
            Servicer(self.ledger, self.rules, rate=rate),
            bind="127.0.0.1",
            port=int(self.server.address.rpartition(":")[2]) if self.server else 0,
            certificate=self.folder / "server" / "server.pem",
            key=self.folder / "server" / "server.key",
        )
        self.is_at(server.address)
        return server

    def is_at(self, address: str) -> None:
        """Write into the kits where the service is."""
        for name in self.keys:
            file = self.kit_folder(name) / "device.toml"
            file.write_text(re.sub('^forget = ".*"$', f'forget = "{address}"', file.read_text(), flags=re.MULTILINE))

    def kit_folder(self, name: str) -> Path:
        return self.folder / "kits" / name

    def service(self, name: str, deadline: float = STILL) -> ForgetService:
        return ForgetService(Kit.read(self.kit_folder(name)), deadline=deadline)

    def work_off(self, request: str, *, end: str = "done", receipt: bytes = b'{"payload": "..."}') -> None:
        """Carry a request through its states, as the coordinator does."""
        self.ledger.advance(request, of="asked", to="forgetting", kind="forgetting", withdraw=True)
        self.ledger.advance(request, of="forgetting", to="recovering", kind="recovering")
        reason = None if end in FORGOTTEN else "no device answered"
        made = receipt if end in FORGOTTEN else None
        self.ledger.advance(request, of="recovering", to=end, kind=end, reason=reason, receipt=made)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "federation.toml").write_text(TOLD)
    folder = tmp_path / "clinics"
    made = provision(read_plan(tmp_path / "federation.toml"), folder)
    ledger = Ledger.open(f"sqlite:///{folder}/server/ledger.db", seal=read_seal(folder / "server" / "receipts.key"))
    ledger.add_step(first_step())
    world = World(folder, ledger, {one.name: read_private(one.kit / "node.key") for one in made})
    yield world
    if world.server is not None:
        world.server.stop(grace=0)
    ledger.close()


def first_step() -> Step:
    return Step(
        number=1,
        phase="train",
        request=None,
        model_before="",
        model_after="a" * 64,
        round=1,
        contributions=tuple(Contribution(member, count) for member, count in EXAMPLES.items()),
        refused=0,
        seconds=1.0,
        device_seconds=1.0,
        bytes_down=1,
        bytes_up=1,
        measures={},
        at=1.0,
    )
