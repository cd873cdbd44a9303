"""What would keep a server from starting is found before it starts, and named with the way out."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedquit.client.device.join import free_port
from fedquit.errors import InputError
from fedquit.server.ledger import Ledger
from fedquit.server.ledger.audit_log.seal import read_seal
from fedquit.server.provision.doctor_command import doctor
from fedquit.server.provision.federation_plan import read_plan
from fedquit.server.provision.provision import provision

TOLD = """
name = "clinics"
[server]
fleet-port = {}
superlink-port = {}
forget-port = {}
page-port = {}
[training]
model = "mlp"
classes = 10
input-shape = "1x8x8"
[[device]]
name = "north"
[[device]]
name = "south"
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "federation.toml").write_text(TOLD.format(*(free_port() for _ in range(4))))
    provision(read_plan(tmp_path / "federation.toml"), tmp_path / "out")
    return tmp_path / "out"


def findings(folder: Path) -> tuple[dict[str, dict[str, Any]], int]:
    said = CliRunner().invoke(doctor, [str(folder), "--json"])
    return {finding["name"]: finding for finding in json.loads(said.stdout)}, said.exit_code


def test_a_server_that_was_just_made_is_well(out: Path) -> None:
    found, code = findings(out / "server")
    wrong = {name: finding for name, finding in found.items() if finding["state"] == "wrong" and name != "proxy"}
    assert not wrong
    assert code == (1 if found["proxy"]["state"] == "wrong" else 0)
    assert found["ledger"]["text"] == "whole; 2 devices"
    if found["proxy"]["state"] == "ok":
        assert found["proxy"]["text"].endswith("256 connections of one address: 128 devices behind one router")


def test_each_thing_that_is_wrong_is_named_with_the_way_out(out: Path) -> None:
    server = out / "server"
    (server / "receipts.key").chmod(0o644)
    (server / "server.pem").unlink()
    with sqlite3.connect(server / "ledger.db") as database:
        database.execute("UPDATE members SET name = 'nroth' WHERE number = 0")
    text = (server / "server.toml").read_text()
    (server / "server.toml").write_text(text + '\n[trusted]\ndata = "none.npz"\n')
    found, code = findings(server)
    assert code == 1
    assert "chmod 600" in found["keys"]["text"]
    assert "provision" in found["certificate"]["text"]
    assert "does not hold" in found["ledger"]["text"]
    assert "none.npz" in found["trusted data"]["text"]


def test_a_token_that_others_can_read_is_named(out: Path) -> None:
    (out / "server/page.token").write_text("t" * 43)
    (out / "server/page.token").chmod(0o644)
    assert "page.token; do: chmod 600" in findings(out / "server")[0]["keys"]["text"]


def test_a_member_with_a_key_that_cannot_join_is_named(out: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ledger = Ledger.open(f"sqlite:///{out}/server/ledger.db", seal=read_seal(out / "server/receipts.key"))
    ledger.enrol("old", der)
    ledger.close()
    assert "'old' is enrolled with a key that is not P-384" in findings(out / "server")[0]["ledger"]["text"]


def test_a_kit_is_checked_too_and_another_folder_is_refused(out: Path) -> None:
    found, code = findings(out / "kits/north")
    assert found["key"]["state"] == "ok"
    assert found["data"]["state"] == "wrong"
    assert code != 0
    refused = CliRunner().invoke(doctor, [str(out)])
    assert isinstance(refused.exception, InputError)
