"""A backup is all that a server needs, a restored server goes on, and who has seen more than it finds that out."""

import contextlib
import io
import json
import shutil
import stat
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fedquit.client.receipts import read_receipt
from fedquit.errors import FedquitError
from fedquit.server.ledger import Ledger
from fedquit.server.ledger.audit_log.seal import read_seal
from fedquit.server.provision.backup.archive import MANIFEST, digest_of_file
from fedquit.server.provision.backup.make_backup import make_backup
from fedquit.server.provision.backup.restore_backup import restore_backup
from tests.fixtures.v0_1_0.unpack import LEFT, PENDING, old_deployment
from tests.harness.rehearsal import Rehearsal

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def made(tmp_path: Path) -> Rehearsal:
    """Return a deployment in which something has happened."""
    rehearsal = old_deployment(tmp_path)
    with rehearsal.ledger():
        pass  # migrated, as `fedquit serve` does
    return rehearsal


@pytest.fixture
def saved(made: Rehearsal, tmp_path: Path) -> Path:
    return make_backup(made.server, tmp_path / "saved.tar").path


def elsewhere(made: Rehearsal, saved: Path, folder: Path) -> Rehearsal:
    """Restore a backup into another folder, for the same kits."""
    restore_backup(saved, folder / "server")
    shutil.copytree(made.folder / "kits", folder / "kits", dirs_exist_ok=True)
    return Rehearsal(folder, made.clock)


def test_a_restored_server_goes_on_with_its_devices_and_old_receipts_verify(
    made: Rehearsal, saved: Path, tmp_path: Path
) -> None:
    other = elsewhere(made, saved, tmp_path / "other")
    shutil.rmtree(made.server)
    with other.ledger() as ledger:
        before, asked = len(ledger.steps(phase="train")), ledger.next_asked()
    assert asked is not None
    other.run(other.grid(), rounds=before + 1)
    key = load_pem_public_key((other.server / "receipts.pub").read_bytes())
    with other.ledger() as ledger:
        assert ledger.check_chain() == []
        assert ledger.request(asked.id).status in ("done", "unrecovered")
        receipts = [request.receipt for request in ledger.requests() if request.receipt]
        assert len(receipts) == 3
        assert {read_receipt(receipt, key).predicate["federation"] for receipt in receipts} == {"rehearsal"}  # type: ignore[arg-type]
        gave = {given.member for step in ledger.steps()[-1:] for given in step.contributions}
    assert gave == {0, 2, 3, 5}


def test_a_backup_of_a_server_that_writes_is_of_one_moment(made: Rehearsal, tmp_path: Path) -> None:
    over = threading.Event()

    def write() -> None:
        ledger = Ledger.open(
            made.federation.ledger_url(made.server), seal=read_seal(made.server / "receipts.key"), clock=made.clock
        )
        with contextlib.closing(ledger):
            while not over.is_set():
                ledger.enrol(f"new {ledger.head()[0]}", b"key %d" % ledger.head()[0])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        files = [make_backup(made.server, tmp_path / f"{n}.tar") for n in range(3)]
    finally:
        over.set()
        writer.join()
    heads = [restore_backup(each.path, tmp_path / each.path.stem / "server").event for each in files]
    assert heads == sorted(heads)
    assert all(head >= each.manifest.event for head, each in zip(heads, files, strict=True))


def test_a_backup_does_not_fail_because_a_round_is_logged_meanwhile(
    made: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = made.server / "costs.csv"
    before = log.read_bytes()

    def grows(path: Path) -> tuple[int, str]:
        with log.open("ab") as file:
            file.write(b"a row\n")
        return digest_of_file(path)

    monkeypatch.setattr("fedquit.server.provision.backup.make_backup.digest_of_file", grows)
    with tarfile.open(make_backup(made.server, tmp_path / "saved.tar").path) as archive:
        content = archive.extractfile("server/costs.csv")
        assert content is not None
        assert content.read() == before
    assert log.read_bytes().startswith(before + b"a row\na row\n")


def test_a_backup_is_for_its_owner_alone_and_so_are_the_keys_that_come_out(
    made: Rehearsal, saved: Path, tmp_path: Path
) -> None:
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    restore_backup(saved, tmp_path / "other" / "server")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "other").rglob("*")}
    assert {modes[name] for name in ("ledger.db", "server.key", "receipts.key", "ca.key")} == {0o600}
    assert modes["server"] == modes["authority"] == 0o700
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_authority_can_be_left_out(made: Rehearsal, tmp_path: Path) -> None:
    made_backup = make_backup(made.server, tmp_path / "saved.tar", with_authority=False)
    assert not any(name.startswith("authority") for name in made_backup.manifest.files)
    assert "server/server.toml" in made_backup.manifest.files
    restore_backup(made_backup.path, tmp_path / "other" / "server")
    assert not (tmp_path / "other" / "authority").exists()


def test_a_restored_old_copy_is_found_out_by_a_receipt_and_by_a_device(
    made: Rehearsal, saved: Path, tmp_path: Path, run: Run
) -> None:
    request = made.ask(made.signed(0))  # all that device 0 gave: it leaves
    with made.ledger() as ledger:
        rounds = len(ledger.steps(phase="train"))
    made.run(made.grid(), rounds=rounds + 1)
    with made.ledger() as ledger:
        receipt = ledger.request(request.id).receipt
    assert receipt is not None
    (tmp_path / "receipt.json").write_bytes(receipt)
    assert run("ledger", "check", made.server, "--receipt", tmp_path / "receipt.json")[0] == 0
    other = elsewhere(made, saved, tmp_path / "other")
    code, out, _ = run("ledger", "check", other.server, "--receipt", tmp_path / "receipt.json")
    assert (code, "the log was restored from a copy or rewritten" in out) == (1, True)
    with other.ledger() as ledger:
        assert ledger.member(0).status == "active"  # the server has forgotten that it left
    other.run(other.grid(), rounds=rounds + 1)
    with other.ledger() as ledger:
        last = ledger.last_step()
        assert last is not None
        assert 0 not in {given.member for given in last.contributions}  # the device has not
        said = [event.facts["reason"] for event in ledger.events() if event.member == 0 and "reason" in event.facts]
    assert any(f"it left with request {request.id[:12]}" in reason for reason in said)


def changed(saved: Path, change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes] | None]) -> bytes:
    """Return the backup with entries changed, or left out."""
    buffer = io.BytesIO()
    with tarfile.open(saved) as archive, tarfile.open(fileobj=buffer, mode="w:") as other:
        for entry in archive.getmembers():
            file = archive.extractfile(entry)
            new = change(entry, file.read() if file else b"")
            if new is not None:
                new[0].size = len(new[1]) if new[0].isreg() else 0
                other.addfile(new[0], io.BytesIO(new[1]))
    return buffer.getvalue()


def called(name: str, to: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[..., object]:
    """Rename an entry, or make it a link."""

    def change(entry: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if entry.name == name:
            entry.name, entry.type, entry.linkname = to, kind, link
        return entry, content

    return change


def listing(**values: object) -> Callable[..., object]:
    """Change what the list says."""

    def change(entry: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if entry.name != MANIFEST:
            return entry, content
        document = json.loads(content)
        document["files"].update(values)
        return entry, json.dumps(document).encode()

    return change


TOML, PUB = "server/server.toml", "server/receipts.pub"
BAD: dict[str, tuple[Callable[..., object], str]] = {
    "leads out": (called(TOML, "server/../../out"), "which it does not list"),
    "is absolute": (called(TOML, "/tmp/fedquit-out"), "which it does not list"),
    "lists one that leads out": (listing(**{"server/../../out": [1, ""]}), "which no backup holds"),
    "lists a hidden one": (listing(**{"server/.ssh/keys": [1, ""]}), "which no backup holds"),
    "lists an absurd size": (listing(**{TOML: [2**50, ""]}), "larger than itself"),
    "lists no size": (listing(**{TOML: ["many", ""]}), "does not begin with what a backup"),
    "a link": (called(TOML, TOML, tarfile.SYMTYPE, "/etc/passwd"), "is not the file that it lists"),
    "a hard link": (called(TOML, TOML, tarfile.LNKTYPE, PUB), "is not the file that it lists"),
    "a device": (called(TOML, TOML, tarfile.CHRTYPE), "is not the file that it lists"),
    "altered": (lambda entry, content: (entry, content[:-1] + b"?" if entry.name == PUB else content), "was altered"),
    "one missing": (lambda entry, content: None if entry.name == PUB else (entry, content), "is missing"),
    "no list": (lambda entry, content: None if entry.name == MANIFEST else (entry, content), "does not begin with"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_archive_that_is_not_as_a_backup_is_refused_and_nothing_is_left(
    saved: Path, run: Run, tmp_path: Path, name: str
) -> None:
    change, said = BAD[name]
    (tmp_path / "bad.tar").write_bytes(changed(saved, change))  # type: ignore[arg-type]
    before = sorted(path.name for path in tmp_path.iterdir())
    code, _, err = run("restore", tmp_path / "bad.tar", tmp_path / "other")
    assert (code, err.count("\n"), said in err) == (4, 1, True), err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_damaged_or_foreign_file_is_refused_with_one_line(saved: Path, run: Run, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("notes"), None)
    cut = [whole[:end] for end in (0, 1, 511, 512, 700, 5000, len(whole) // 2, len(whole) - 12_000)]
    at = whole.index(b"SQLite format 3")
    flipped = whole[: at + 5000] + bytes([whole[at + 5000] ^ 1]) + whole[at + 5001 :]
    for content in (*cut, flipped, packed.getvalue(), b"PK\x03\x04" + bytes(600), b"\0" * 10_240, b"\xff" * 10_240):
        (tmp_path / "bad.tar").write_bytes(content)
        code, _, err = run("restore", tmp_path / "bad.tar", tmp_path / "other")
        assert (code, err.count("\n"), "cannot be restored" in err) == (4, 1, True), err
        assert not (tmp_path / "other").exists()
    code, _, err = run("restore", tmp_path / "nowhere.tar", tmp_path / "other")
    assert (code, err.count("\n")) == (1, 1)


def test_a_list_that_another_server_signed_is_refused_with_key(
    made: Rehearsal, saved: Path, tmp_path: Path, run: Run
) -> None:
    own = made.server / "receipts.pub"
    assert run("restore", saved, tmp_path / "other" / "server", "--key", own)[0] == 0
    stranger = made.folder / "kits" / "ada" / "node.pub"
    assert run("restore", saved, tmp_path / "third", "--key", stranger)[0] == 4
    foreign = old_deployment(tmp_path / "foreign").server
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from fedquit.server.provision.certificates import public_pem

    (foreign / "receipts.pub").write_bytes(public_pem(Ed25519PrivateKey.generate().public_key()))
    code, _, err = run("restore", saved, tmp_path / "third", "--key", foreign / "receipts.pub")
    assert (code, "another server made it" in err, (tmp_path / "third").exists()) == (4, True, False)


def test_a_ledger_that_does_not_hold_is_not_restored(made: Rehearsal, tmp_path: Path, run: Run) -> None:
    import sqlite3

    with contextlib.closing(sqlite3.connect(made.server / "ledger.db", isolation_level=None)) as connection:
        connection.execute("UPDATE steps SET bytes_up = 1 WHERE number = 2")
    saved = make_backup(made.server, tmp_path / "saved.tar").path
    code, _, err = run("restore", saved, tmp_path / "other")
    assert (code, "step 2 was altered" in err, (tmp_path / "other").exists()) == (1, True, False)


@pytest.mark.parametrize("what", ["a link", "writable by others", "another user's"])
def test_keys_are_not_unpacked_into_a_folder_that_another_can_change(
    made: Rehearsal, saved: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    shared, staging = tmp_path / "shared", tmp_path / "into" / ".server.restoring"
    shared.mkdir()
    staging.parent.mkdir()
    if what == "a link":
        staging.symlink_to(shared)
    else:
        staging.mkdir(mode=0o700)
        staging.chmod(0o770 if what == "writable by others" else 0o700)
    before = staging.lstat()
    with monkeypatch.context() as patch:
        if what == "another user's":
            patch.setattr("os.geteuid", lambda: before.st_uid + 1)
        code, _, err = run("restore", saved, tmp_path / "into" / "server")
    assert (code, err.count("\n")) == (1, 1)
    assert f"{staging} is not a folder of yours alone: remove it, or restore into another folder" in err
    assert [*shared.iterdir(), *staging.iterdir()] == []
    assert (staging.lstat().st_mode, sorted(tmp_path.glob("into/*"))) == (before.st_mode, [staging])


def test_nothing_that_is_there_is_written_over(made: Rehearsal, saved: Path, run: Run, tmp_path: Path) -> None:
    assert run("backup", made.server, saved)[0] == 4
    assert run("restore", saved, made.server)[0] == 4
    (tmp_path / "empty").mkdir()
    (made.folder / "authority" / "ca.crt").write_text("another")
    code, _, err = run("restore", saved, made.folder / "server2")
    assert (code, "is there already, and the backup has another" in err) == (4, True)
    assert run("restore", saved, tmp_path / "empty")[0] == 0


def test_the_commands_say_what_was_done_as_json_too(made: Rehearsal, run: Run, tmp_path: Path) -> None:
    code, out, _ = run("backup", made.server, tmp_path, "--json")
    said = json.loads(out)
    assert (code, Path(said["file"]).parent) == (0, tmp_path)
    assert {"server/server.key", "server/receipts.key", "authority/ca.key"} <= set(said["private"])
    code, out, _ = run("restore", said["file"], tmp_path / "other" / "server", "--json")
    assert (code, json.loads(out)["head"]) == (0, said["head"])


def test_who_restores_is_told_that_a_key_revoked_since_counts_again(
    made: Rehearsal, saved: Path, run: Run, tmp_path: Path
) -> None:
    with made.ledger() as ledger:
        assert ledger.revoke(0)[0].status == "revoked"
    code, _, err = run("restore", saved, tmp_path / "other" / "server")
    assert (code, "counts again: revoke it again before you serve" in err) == (0, True), err
    with Rehearsal(tmp_path / "other", made.clock).ledger() as ledger:
        assert ledger.member(0).status == "active"


def test_a_ledger_of_postgresql_goes_through_a_backup(
    made: Rehearsal, tmp_path: Path, postgresql: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    urls = [postgresql.rpartition("/")[0] + f"/backup{n}" for n in range(2)]
    with psycopg.connect(postgresql.replace("+psycopg", ""), autocommit=True) as connection:
        for n in range(2):
            connection.execute(f"CREATE DATABASE backup{n}".encode())
    text = (made.server / "server.toml").read_text()
    (made.server / "server.toml").write_text(f'{text}\n[server]\nledger = "{urls[0]}"\n')
    ledger = Ledger.open(urls[0], seal=read_seal(made.server / "receipts.key"))
    ledger.enrol("north", b"key")
    head = ledger.head()
    ledger.close()
    saved = make_backup(made.server, tmp_path / "saved.tar")
    assert saved.manifest.ledger == "postgresql"
    done = restore_backup(saved.path, tmp_path / "other" / "server", ledger=urls[1])
    assert (done.event, done.head) == head
    with pytest.raises(FedquitError, match="the database holds a ledger already"):
        restore_backup(saved.path, tmp_path / "third" / "server", ledger=urls[1])
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, err = run("backup", made.server, tmp_path / "more.tar")
    assert (code, "pg_dump is not installed" in err, "only-for-tests" in err) == (4, True, False)


def test_a_folder_of_an_older_version_is_backed_up_before_it_is_upgraded(tmp_path: Path, run: Run) -> None:
    server = old_deployment(tmp_path).server
    before = (server / "ledger.db").read_bytes()
    assert run("backup", server, tmp_path / "saved.tar")[0] == 0
    assert (server / "ledger.db").read_bytes() == before
    with tarfile.open(tmp_path / "saved.tar") as archive:
        archive.extract("server/ledger.db", tmp_path / "out", filter="data")
    code, _, err = run("ledger", "check", tmp_path / "out" / "server" / "ledger.db")
    assert (code, "of revision 0001" in err) == (1, True)


def test_what_devices_keep_themselves_is_not_in_a_backup(made: Rehearsal, saved: Path) -> None:
    with tarfile.open(saved) as archive:
        names = archive.getnames()
    assert not any("kits" in name or "record.db" in name for name in names)
    assert {f"server/models/{path.name}" for path in (made.server / "models").iterdir()} <= set(names)
    assert "server/trusted.npz" in names
    assert LEFT != PENDING
