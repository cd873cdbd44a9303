"""A federation with two devices and an operator, one round trained, and its forget service on loopback with TLS."""

import datetime
import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fedquit.client.asking.channel import ForgetService
from fedquit.client.asking.keys import PrivateKey, new_key, public_der, write_key
from fedquit.client.kit import Kit
from fedquit.server.ledger import Contribution, Ledger, Step
from fedquit.server.service.admission import Rules
from fedquit.server.service.limits import Rate
from fedquit.server.service.server import ForgetServer
from fedquit.server.service.servicer import Servicer

EXAMPLES = {0: 100, 1: 50}
NAMES = ("north", "south", "operator")


@dataclass
class World:
    """What a test needs of a federation."""

    folder: Path
    ledger: Ledger
    keys: dict[str, PrivateKey]
    rules: Rules = field(default_factory=lambda: Rules("clinics"))
    server: ForgetServer | None = None

    def start(self, **limits: Rate) -> ForgetServer:
        server = self.server = ForgetServer.start(
            Servicer(self.ledger, self.rules, **limits),  # type: ignore[arg-type]
            bind="127.0.0.1",
            port=int(self.server.address.rpartition(":")[2]) if self.server else 0,
            certificate=self.folder / "server.pem",
            key=self.folder / "server.key",
        )
        for name in NAMES:
            self.kit_folder(name, server.address)
        return server

    def kit_folder(self, name: str, address: str) -> Path:
        kit = self.folder / name
        if not kit.exists():
            kit.mkdir()
            write_key(kit / "node.key", self.keys[name])
            (kit / "ca.crt").write_bytes((self.folder / "ca.crt").read_bytes())
        role = "operator" if name == "operator" else "device"
        (kit / "device.toml").write_text(
            f'federation = "clinics"\nsuperlink = "127.0.0.1:1"\nforget = "{address}"\nname = "{name}"\n'
            f'number = {NAMES.index(name)}\nrole = "{role}"\n'
        )
        return kit

    def kit(self, name: str) -> Kit:
        return Kit.read(self.folder / name)

    def service(self, name: str, deadline: float = 60.0) -> ForgetService:
        return ForgetService(self.kit(name), deadline=deadline)

    def work_off(self, request: str, *, end: str = "done") -> None:
        """Carry a request through its states, as the coordinator does."""
        self.ledger.advance(request, of="asked", to="forgetting", kind="forgetting", withdraw=True)
        self.ledger.advance(request, of="forgetting", to="recovering", kind="recovering")
        reason = None if end == "done" else "no device answered"
        receipt = b'{"payload": "..."}' if end == "done" else None
        self.ledger.advance(request, of="recovering", to=end, kind=end, reason=reason, receipt=receipt)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    keys = {name: new_key() for name in NAMES}
    for name, key in keys.items():
        ledger.enrol(name, public_der(key), "operator" if name == "operator" else "device")
    ledger.add_step(first_step())
    write_certificates(tmp_path)
    world = World(tmp_path, ledger, keys)
    yield world
    if world.server is not None:
        world.server.stop(grace=0)
    ledger.close()


def first_step() -> Step:
    parts = tuple(Contribution(member, count) for member, count in EXAMPLES.items())
    numbers = {"seconds": 1.0, "device_seconds": 1.0, "bytes_down": 1, "bytes_up": 1, "at": 1.0}
    return Step(
        number=1,
        phase="train",
        request=None,
        model_before="",
        model_after="a" * 64,
        round=1,
        contributions=parts,
        refused=0,
        measures={},
        **numbers,  # type: ignore[arg-type]
    )


def write_certificates(folder: Path) -> None:
    """Write ca.crt, server.pem and server.key for localhost and 127.0.0.1."""
    authority, server = new_key(), new_key()
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "clinics CA")])
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)

    def signed(subject: x509.Name, key: PrivateKey, extension: x509.ExtensionType) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + datetime.timedelta(days=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        )
        return builder.sign(authority, SHA256()).public_bytes(Encoding.PEM)

    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    (folder / "ca.crt").write_bytes(signed(issuer, authority, x509.BasicConstraints(ca=True, path_length=None)))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    (folder / "server.pem").write_bytes(signed(name, server, names))
    (folder / "server.key").touch(mode=0o600)
    (folder / "server.key").write_bytes(
        server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


@pytest.fixture
def certificates() -> Callable[[Path], None]:
    return write_certificates
