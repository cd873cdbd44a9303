"""Devices are let into a real SuperLink over one connection, so that a thousand take no longer than a look."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedquit.client.device.join import free_port
from fedquit.errors import FedquitError, FlowerRefusedError
from fedquit.processes.supervisor import Part, Supervisor
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger, Member
from fedquit.server.provision.certificates import der_of
from fedquit.server.provision.federation_plan import read_plan
from fedquit.server.provision.provision import provision
from fedquit.server.serve.serve import START_WITHIN
from fedquit.server.serve.superlink import Flower, _pem

DEVICES = 1000
WITHIN = 60.0  # seconds for all of them


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    """Run a SuperLink with TLS and node keys."""
    root, port = tmp_path_factory.mktemp("registration"), free_port()
    (root / "federation.toml").write_text(
        f'name = "clinics"\n[server]\nfleet-port = {port}\nsuperlink-port = {port}\n[[device]]\nname = "north"\n'
    )
    provision(read_plan(root / "federation.toml"), root / "clinics")
    folder = root / "clinics" / "server"
    found = Flower(folder, Federation.read(folder))
    found.prepare()
    (folder / "logs").mkdir()
    part = Part("superlink", found.superlink(), found.environment(), port)
    supervisor = Supervisor([part], folder / "logs")
    supervisor.start(START_WITHIN)
    try:
        yield found
    finally:
        supervisor.stop()


def members(folder: Path, number: int, curve: ec.EllipticCurve) -> list[Member]:
    """Return that many devices that are enrolled in a ledger of their own."""
    ledger = Ledger.open(f"sqlite:///{folder}/ledger.db")
    try:
        keys = (ec.generate_private_key(curve).public_key() for _ in range(number))
        return [ledger.enrol(f"device-{place}", der_of(key)) for place, key in enumerate(keys)]
    finally:
        ledger.close()


def test_a_thousand_devices_are_let_in_in_less_than_a_minute(flower: Flower, tmp_path: Path) -> None:
    devices = members(tmp_path, DEVICES, ec.SECP384R1())
    began = time.monotonic()
    assert flower.register(devices) == []
    took = time.monotonic() - began
    began = time.monotonic()
    assert flower.register(devices) == [], "they are in"
    again = time.monotonic() - began
    print(f"{DEVICES} devices: {took:.1f} s; all of them again: {again:.2f} s")
    with flower._control() as control:
        assert {device.fingerprint for device in devices} <= control.keys()
    assert took < WITHIN


def test_a_key_that_flower_does_not_take_keeps_nobody_else_out(flower: Flower, tmp_path: Path) -> None:
    (bad,) = members(tmp_path, 1, ec.SECP256K1())
    (tmp_path / "good").mkdir()
    (good,) = members(tmp_path / "good", 1, ec.SECP384R1())
    (reason,) = flower.register([bad, good])
    assert reason.startswith(f"Flower does not register '{bad.name}'")
    with flower._control() as control:
        registered = control.keys()
        assert good.fingerprint in registered
        with pytest.raises(FlowerRefusedError, match="Flower does not stop run 7"):
            control.stop(7)
    assert flower.runs() == {}


def test_a_device_unregistered_by_hand_is_named_with_the_way_back(flower: Flower, tmp_path: Path) -> None:
    out, stays = members(tmp_path, 2, ec.SECP384R1())
    assert flower.register([out, stays]) == []
    with flower._control() as control:
        control.unregister({out.fingerprint})
        registered = control.keys()
        assert stays.fingerprint in registered
        assert out.fingerprint not in registered
        control.register(_pem(stays.key), stays.name)  # in already, by another hand meanwhile
    for _ in range(2):
        (reason,) = flower.register([out, stays])
        assert reason == (
            f"Flower does not register '{out.name}': its key was unregistered, and Flower never takes such a "
            "key again; revoke it with `fedquit member revoke` and provision the device by another name"
        )


def test_a_missing_superlink_is_reported_in_one_line(flower: Flower, tmp_path: Path) -> None:
    gone = Flower(flower.folder, Federation(name="clinics"))
    with pytest.raises(FedquitError, match="Flower does not list runs: ") as told:
        gone.runs()
    assert "\n" not in str(told.value)
