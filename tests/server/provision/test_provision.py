"""A federation is made ready once, completely, and made again without touching what was handed out."""

import json
import os
import ssl
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedquit.client.kit import Kit
from fedquit.errors import InputError
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger
from fedquit.server.provision.certificates import der_of
from fedquit.server.provision.command import EXAMPLE, provision
from fedquit.server.provision.provision import provision as carry_out
from fedquit.server.provision.told import read_plan

TOLD = """
name = "clinics"
[server]
host = "fed.example.org"
[[device]]
name = "north"
data = "/srv/images.npz"
[[device]]
name = "south"
[[operator]]
name = "ada"
"""


def told(folder: Path, text: str = TOLD) -> Path:
    path = folder / "federation.toml"
    path.write_text(text)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_member_gets_a_kit_and_is_enrolled_with_its_key(tmp_path: Path) -> None:
    made = carry_out(read_plan(told(tmp_path)), tmp_path / "out")
    assert [(m.name, m.role, m.number, m.new) for m in made] == [
        ("north", "device", 0, True),
        ("south", "device", 1, True),
        ("ada", "operator", 2, True),
    ]
    ledger = Ledger.open(Federation.read(tmp_path / "out/server").ledger_url(tmp_path / "out/server"), write=False)
    for member in made:
        kit = Kit.read(member.kit)
        assert (kit.federation, kit.number, kit.role) == ("clinics", member.number, member.role)
        assert (kit.superlink, kit.forget) == ("fed.example.org:9443", "fed.example.org:9444")
        private = serialization.load_ssh_private_key(kit.key_file.read_bytes(), password=None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert private.curve.name == "secp384r1"
        assert ledger.member(member.number).key == der_of(private.public_key())
    assert ledger.check_chain() == []
    ledger.close()


def test_private_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        carry_out(read_plan(told(tmp_path)), tmp_path / "out")
    finally:
        os.umask(before)
    private = [path for path in (tmp_path / "out").rglob("*") if path.suffix == ".key"]
    assert len(private) == 6
    assert {mode(path) for path in private} == {0o600}
    assert {mode(tmp_path / "out" / name) for name in ("server", "kits", "authority")} == {0o700}


def test_the_server_certificate_is_for_its_host_and_for_loopback(tmp_path: Path) -> None:
    carry_out(read_plan(told(tmp_path)), tmp_path / "out")
    server = tmp_path / "out/server"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server / "server.pem", server / "server.key")
    for_host = ["-CAfile", str(server / "ca.crt"), "-verify_hostname", "fed.example.org"]
    verified = subprocess.run(
        ["openssl", "verify", *for_host, str(server / "server.pem")], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stderr
    shown = subprocess.run(
        ["openssl", "x509", "-in", server / "server.pem", "-noout", "-ext", "subjectAltName"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert all(name in shown for name in ("DNS:fed.example.org", "DNS:localhost", "IP Address:127.0.0.1"))


def test_again_with_another_member_only_what_is_missing_is_made(tmp_path: Path) -> None:
    carry_out(read_plan(told(tmp_path)), tmp_path / "out")
    before = contents(tmp_path / "out")
    more = told(tmp_path, TOLD + '[[device]]\nname = "west"\n')
    made = carry_out(read_plan(more), tmp_path / "out")
    assert [m.name for m in made if m.new] == ["west"]
    after = contents(tmp_path / "out")
    changed = {name for name in after if after[name] != before.get(name)}
    assert {name for name in changed if not name.startswith("server/ledger")} == {
        f"kits/west/{name}" for name in ("ca.crt", "device.toml", "node.key", "node.pub", "receipts.pub")
    }


def test_a_kit_that_was_handed_out_is_not_made_again(tmp_path: Path) -> None:
    carry_out(read_plan(told(tmp_path)), tmp_path / "out", tar=True)
    (tmp_path / "out/kits/north.tar.gz").unlink()
    made = carry_out(read_plan(told(tmp_path)), tmp_path / "out", tar=True)
    assert not any(member.new for member in made)
    assert sorted(path.name for path in (tmp_path / "out/kits").iterdir()) == ["ada.tar.gz", "south.tar.gz"]


def test_a_packed_kit_unpacks_to_what_a_device_needs(tmp_path: Path) -> None:
    carry_out(read_plan(told(tmp_path)), tmp_path / "out", tar=True)
    packed = tmp_path / "out/kits/north.tar.gz"
    assert mode(packed) == 0o600
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path / "device", filter="data")
    assert Kit.read(tmp_path / "device/north").name == "north"
    assert mode(tmp_path / "device/north/node.key") == 0o600


def test_a_device_may_keep_its_private_key_to_itself(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    text = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    (tmp_path / "north.pub").write_bytes(text)
    plan = read_plan(told(tmp_path, TOLD.replace('name = "north"\n', 'name = "north"\npublic-key = "north.pub"\n')))
    north = carry_out(plan, tmp_path / "out")[0]
    assert north.own_key
    assert sorted(path.name for path in north.kit.iterdir()) == ["ca.crt", "device.toml", "receipts.pub"]


def test_stopped_after_the_key_and_before_the_ledger_the_same_key_is_enrolled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "enrol", fails)
        with pytest.raises(KeyboardInterrupt):
            carry_out(read_plan(told(tmp_path)), tmp_path / "out")
    before = (tmp_path / "out/kits/north/node.key").read_bytes()
    assert all(member.new for member in carry_out(read_plan(told(tmp_path)), tmp_path / "out"))
    assert (tmp_path / "out/kits/north/node.key").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (TOLD.replace("[[device]]", "[[devise]]"), "devise"),
        ('name = "a"\n', "there is no [[device]]"),
        (TOLD.replace('"south"', '"north"'), "two members are called 'north'"),
        (TOLD.replace('"ada"', '"../ada"'), "[[operator]] 0 name"),
        (TOLD.replace('name = "south"', 'name = "south"\npublic-key = "none.pub"'), "public-key of 'south'"),
        (TOLD.replace('name = "south"', 'name = "south"\ncolour = 1'), "colour"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_made(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InputError) as refused:
        carry_out(read_plan(told(tmp_path, text)), tmp_path / "out")
    assert named in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_another_federations_folder_is_left_alone(tmp_path: Path) -> None:
    carry_out(read_plan(told(tmp_path)), tmp_path / "out")
    with pytest.raises(InputError, match="is the federation 'clinics', not 'schools'"):
        carry_out(read_plan(told(tmp_path, TOLD.replace("clinics", "schools"))), tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("")
    with pytest.raises(InputError, match="is not the folder of a federation"):
        carry_out(read_plan(told(tmp_path)), tmp_path / "mine")


def test_the_example_can_be_provisioned_as_it_is(tmp_path: Path) -> None:
    config = tmp_path / "federation.toml"
    assert CliRunner().invoke(provision, [str(config), "--example"]).exit_code == 0
    assert config.read_text() == EXAMPLE
    done = CliRunner().invoke(provision, [str(config), "--json"])
    assert done.exit_code == 0, done.output
    assert [member["name"] for member in json.loads(done.stdout)["members"]] == ["north", "south", "ada"]
    assert (tmp_path / "clinics/server/deploy/nginx.conf").is_file()
