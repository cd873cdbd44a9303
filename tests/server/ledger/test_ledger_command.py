"""What an auditor gets from `fedquit ledger`: a verdict with an exit code, the log, every row."""

import json
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from alembic import command
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fedquit.server.ledger import Ed25519Seal, Ledger
from fedquit.server.ledger.storage.database import Database, alone
from fedquit.server.ledger.storage.migrate import _config

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run: Run) -> Run:
    return partial(run, "ledger")


def write_keys(folder: Path, name: str) -> Ed25519Seal:
    """Write NAME.key and NAME.pub."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{name}.key").write_bytes(private)
    (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return Ed25519Seal(key)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a server's folder with a sealed ledger of two events."""
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}", seal=write_keys(tmp_path, "receipts"))
    ledger.enrol("north", b"key")
    ledger.note("purged", request="ab" * 32, facts={"models": 2})
    ledger.close()
    return tmp_path


def edit(folder: Path, statement: str) -> None:
    with sqlite3.connect(folder / "ledger.db") as connection:
        connection.execute(statement)
    connection.close()


def test_a_sound_ledger_is_done_and_its_head_can_be_noted(folder: Path, run: Run) -> None:
    code, out, err = run("check", folder)
    assert (code, out) == (0, "")
    assert "Sound: 2 events, seal checked." in err
    noted = err.split("Head: ")[1].strip()
    assert run("check", folder, "--noted", noted)[0] == 0
    code, out, _ = run("check", folder / "ledger.db", "--noted", noted.replace(":", ":0"), "--json")
    said = json.loads(out)
    assert (code, said["sound"], said["seal_checked"]) == (1, False, False)
    assert said["wrong"] == ["event 2 is not the one that was noted: the log was restored from a copy or rewritten"]


def test_an_edited_ledger_fails_and_each_line_names_a_row(folder: Path, run: Run) -> None:
    edit(folder, "UPDATE members SET status = 'withdrawn'")
    edit(folder, "UPDATE events SET kind = 'kept' WHERE number = 2")
    code, out, err = run("check", folder)
    assert (code, out.splitlines()) == (
        1,
        [
            "event 2 was altered: its digest is not that of its content",
            "member 0 was altered: it is not what event 1 says",
        ],
    )
    assert "2 wrong" in err


def test_checking_changes_nothing(folder: Path, run: Run) -> None:
    before = (folder / "ledger.db").read_bytes()
    run("check", folder)
    run("export", folder)
    assert (folder / "ledger.db").read_bytes() == before


def test_a_ledger_of_the_revision_before_is_checked_once_serve_has_opened_it(tmp_path: Path, run: Run) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    seal, database = write_keys(tmp_path, "receipts"), Database(url)
    with database.write() as connection:
        alone(connection)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
    database.close()
    code, _, err = run("check", tmp_path)
    assert (code, err.count("\n"), "is of revision 0002; open it with 'fedquit serve' once" in err) == (1, 1, True)
    ledger = Ledger.open(url, seal=seal)
    ledger.enrol("north", b"key")
    ledger.close()
    code, _, err = run("check", tmp_path)
    assert (code, "Sound: 1 events, seal checked." in err) == (0, True)


def test_events_are_for_people_or_json(folder: Path, run: Run) -> None:
    code, out, _ = run("events", folder)
    assert code == 0
    assert [line.split()[3] for line in out.splitlines()] == ["enrolled", "purged"]
    assert "request abababababab  models=2" in out
    _, out, _ = run("events", folder, "--request", "ab" * 32, "--json")
    (event,) = json.loads(out)
    assert (event["number"], event["facts"]) == (2, {"models": 2})


def test_what_someone_put_into_an_event_does_not_steer_the_terminal(folder: Path, run: Run) -> None:
    edit(folder, "UPDATE events SET kind = 'a' || char(27) || '[2J' || char(10) || 'b' WHERE number = 2")
    _, out, _ = run("events", folder)
    assert r"a\x1b[2J\nb" in out
    assert len(out.splitlines()) == 2


def test_export_has_every_row_as_a_line(folder: Path, run: Run) -> None:
    _, out, _ = run("export", folder)
    tables = [json.loads(line)["table"] for line in out.splitlines()]
    assert tables == ["members", "events", "events", "head"]
    edit(folder, "UPDATE events SET facts = '{' WHERE number = 2")
    code, out, _ = run("export", folder)
    assert (code, json.loads(out.splitlines()[2])["row"]["facts"]) == (0, {"unreadable": "{"})


def test_a_key_is_changed_by_who_has_the_one_before(folder: Path, run: Run) -> None:
    write_keys(folder, "newer")
    code, _, err = run("seal", folder, "--key", folder / "newer.key")
    assert (code, "open it with the key that seals it" in err) == (1, True)
    assert run("seal", folder, "--key", folder / "newer.key", "--before", folder / "receipts.key")[0] == 0
    assert run("check", folder, "--key", folder / "newer.pub")[0] == 0
    code, out, _ = run("check", folder)
    assert (code, "the seal of the head is wrong" in out) == (1, True)


def test_a_mistake_is_one_line_that_names_it(folder: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    (empty / "ec.pem").write_bytes(
        generate_ec(SECP384R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    for arguments, said in (
        (["check", empty], f"there is no ledger at {empty}"),
        (["check", empty / "none.db"], "there is no ledger at"),
        (["check", "sqlite:///none.db"], "there is no ledger none.db"),
        (["check", folder, "--key", empty / "none.pub"], "cannot read the key"),
        (["check", folder, "--key", folder / "ledger.db"], "is not a key in PEM"),
        (["check", folder, "--key", empty / "ec.pem"], "is not an Ed25519 key"),
        (["check", folder, "--noted", "2"], "write NUMBER:DIGEST"),
        (["seal", empty, "--key", folder / "receipts.key"], "there is no ledger at"),
        (["seal", f"sqlite:///{empty}/new.db", "--key", folder / "receipts.key"], "there is no ledger"),
    ):
        code, out, err = run(*arguments)
        assert (code, out, len(err.splitlines())) == (4, "", 1), err
        assert said in err
    assert not list(empty.glob("*.db"))


def test_the_database_that_the_servers_settings_name_is_used(folder: Path, run: Run) -> None:
    elsewhere = folder / "elsewhere.db"
    (folder / "ledger.db").rename(elsewhere)
    (folder / "server.toml").write_text(f'name = "clinics"\n[server]\nledger = "sqlite:///{elsewhere}"\n')
    assert run("check", folder)[0] == 0
    (folder / "server.toml").write_text("[server\n")
    code, _, err = run("check", folder)
    assert (code, "server.toml" in err) == (4, True)
    assert len(err.splitlines()) == 1
