"""A federation is made ready once, completely, and made again without touching what was handed out."""

import datetime
import json
import os
import shutil
import ssl
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedquit.client.kit import Kit
from fedquit.errors import InputError
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger
from fedquit.server.ledger.audit_log.seal import read_seal
from fedquit.server.provision.authority import write
from fedquit.server.provision.certificates import der_of, make_authority
from fedquit.server.provision.command import EXAMPLE, provision
from fedquit.server.provision.federation_plan import read_plan
from fedquit.server.provision.provision import provision as carry_out

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


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP521R1()])
def test_a_key_that_can_neither_join_nor_ask_is_not_enrolled(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve).public_key()
    text = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    (tmp_path / "north.pub").write_bytes(text)
    plan = read_plan(told(tmp_path, TOLD.replace('name = "north"\n', 'name = "north"\npublic-key = "north.pub"\n')))
    with pytest.raises(InputError, match=r"public-key of 'north': .*north\.pub is not a NIST P-384.*ecdsa -b 384"):
        carry_out(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_revoked_member_stays_out_whatever_name_its_key_is_given(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    text = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    (tmp_path / "north.pub").write_bytes(text)
    config, out = told(tmp_path, TOLD.replace('"north"\n', '"north"\npublic-key = "north.pub"\n')), tmp_path / "out"
    carry_out(read_plan(config), out)
    ledger = Ledger.open(f"sqlite:///{out}/server/ledger.db", seal=read_seal(out / "server/receipts.key"))
    for number in (0, 1):
        ledger.revoke(number)
    before = contents(out / "kits")
    done = CliRunner().invoke(provision, [str(config), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.stdout.count("its key is revoked; it may come back by another name") == 2
    assert contents(out / "kits") == before
    told(tmp_path, config.read_text().replace('name = "north"', 'name = "nord"'))
    with pytest.raises(InputError, match=r"public-key of 'nord' is that of member 0 'north', which is revoked"):
        carry_out(read_plan(config), out)
    assert [member.status for member in ledger.members()] == ["revoked", "revoked", "active"]
    ledger.close()


def away(out: Path) -> bytes:
    """Put the authority away, as the documents advise, and return its key."""
    key = (out / "authority/ca.key").read_bytes()
    shutil.rmtree(out / "authority")
    return key


def test_a_member_is_added_while_the_authority_is_away(tmp_path: Path) -> None:
    out = tmp_path / "out"
    carry_out(read_plan(told(tmp_path)), out)
    trusted = (out / "server/ca.crt").read_bytes()
    away(out)
    made = carry_out(read_plan(told(tmp_path, TOLD + '[[device]]\nname = "west"\n')), out)
    assert [member.name for member in made if member.new] == ["west"]
    assert {path.read_bytes() for path in out.rglob("ca.crt")} == {trusted}
    assert not list(out.rglob("ca.key"))


def test_no_authority_is_made_silently_where_there_was_one(tmp_path: Path) -> None:
    out, moved = tmp_path / "out", TOLD.replace("fed.example.org", "new.example.org")
    carry_out(read_plan(told(tmp_path)), out)
    key, trusted = away(out), (out / "server/ca.crt").read_bytes()
    for gone in ((), ("server.pem",), ("server.pem", "ca.crt")):
        for name in gone:
            (out / "server" / name).unlink(missing_ok=True)
        with pytest.raises(InputError, match=r"is missing.*put it back for a moment, or give --new-authority"):
            carry_out(read_plan(told(tmp_path, moved)), out)
    assert not list(out.rglob("ca.key"))
    (out / "server/ca.crt").write_bytes(trusted)
    (out / "authority/ca.key").write_bytes(key)
    carry_out(read_plan(told(tmp_path, moved)), out)
    assert (out / "server/ca.crt").read_bytes() == trusted
    assert is_signed(out)


def is_signed(out: Path) -> bool:
    checks = ["openssl", "verify", "-CAfile", f"{out}/server/ca.crt", f"{out}/server/server.pem"]
    return subprocess.run(checks, capture_output=True, check=False).returncode == 0


def test_a_new_authority_is_made_where_it_is_asked_for_by_name(tmp_path: Path) -> None:
    out, config = tmp_path / "out", told(tmp_path)
    carry_out(read_plan(config), out)
    before = (out / "server/ca.crt").read_bytes()
    done = CliRunner().invoke(provision, [str(config), "--out", str(out), "--new-authority"])
    assert done.exit_code == 0, done.output
    assert "to every member" in done.output
    after = (out / "server/ca.crt").read_bytes()
    assert after != before == (out / "authority/ca-1.crt").read_bytes()
    assert {path.read_bytes() for path in out.rglob("ca.crt")} == {after}
    assert is_signed(out)
    assert mode(out / "authority/ca.key") == mode(out / "authority/ca-1.key") == 0o600


def test_another_authoritys_key_signs_nothing(tmp_path: Path) -> None:
    out, moved = tmp_path / "out", TOLD.replace("fed.example.org", "new.example.org")
    carry_out(read_plan(told(tmp_path)), out)
    other = make_authority("clinics", datetime.datetime.now(datetime.UTC))
    (out / "authority/ca.key").write_bytes(other.key_pem())
    (out / "authority/ca.crt").write_bytes(other.certificate_pem())
    before = contents(out / "server")
    with pytest.raises(InputError, match=r"is not the key of .*ca\.crt, which devices trust"):
        carry_out(read_plan(told(tmp_path, moved)), out)
    assert contents(out / "server") == before


def test_a_certificate_never_outlives_its_authority(tmp_path: Path) -> None:
    out, begin = tmp_path / "out", datetime.datetime.now(datetime.UTC)
    carry_out(read_plan(told(tmp_path)), out, now=begin)
    authority = x509.load_pem_x509_certificate((out / "server/ca.crt").read_bytes())
    late = authority.not_valid_after_utc - datetime.timedelta(days=100)
    carry_out(read_plan(told(tmp_path)), out, now=late)
    certificate = x509.load_pem_x509_certificate((out / "server/server.pem").read_bytes())
    assert certificate.not_valid_after_utc == authority.not_valid_after_utc
    with pytest.raises(InputError, match=r"ends on .*no certificate outlives it: give --new-authority"):
        carry_out(read_plan(told(tmp_path)), out, now=late + datetime.timedelta(days=80))


@pytest.mark.parametrize("at", range(5))
def test_stopped_while_certificates_are_made_the_next_try_makes_them_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    writes, out = iter(range(100)), tmp_path / "out"

    def fails(*given: Any) -> None:
        if next(writes) == at:
            raise KeyboardInterrupt
        write(*given)

    with monkeypatch.context() as patch:
        patch.setattr("fedquit.server.provision.authority.write", fails)
        with pytest.raises(KeyboardInterrupt):
            carry_out(read_plan(told(tmp_path)), out)
    carry_out(read_plan(told(tmp_path)), out)
    assert is_signed(out)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(out / "server/server.pem", out / "server/server.key")


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
    again = CliRunner().invoke(provision, [str(config), "--example"]).exception
    assert isinstance(again, InputError)
    assert "is there already; give another name" in str(again)
    assert config.read_text() == EXAMPLE
    done = CliRunner().invoke(provision, [str(config), "--json"])
    assert done.exit_code == 0, done.output
    assert [member["name"] for member in json.loads(done.stdout)["members"]] == ["north", "south", "ada"]
    assert (tmp_path / "clinics/server/deploy/nginx.conf").is_file()
