"""A backup and a restore that are stopped, at each of their changes on disk: nothing half, nothing left, and again.

They are killed, or their user stops them with Ctrl-C.
"""

import contextlib
import errno
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import pytest

from fedquit.errors import FedquitError
from fedquit.server.coordinator import open_place
from fedquit.server.ledger import Ledger
from fedquit.server.ledger.audit_log.seal import read_seal
from fedquit.server.provision.backup import ledger_copy, restore_folder
from fedquit.server.provision.backup import restore_backup as restore_module
from fedquit.server.provision.backup.ledger_copy import drop_ledger
from fedquit.server.provision.backup.make_backup import make_backup
from fedquit.server.provision.backup.restore_backup import _move, restore_backup
from fedquit.server.provision.backup.unfinished_backup import remove_unfinished_backup
from fedquit.strategies.grid.metered_grid import MeteredGrid
from tests.fixtures.v0_1_0.unpack import old_deployment
from tests.harness.killed_at_writes import interrupts_at_lines, interrupts_at_writes, kills_at_writes
from tests.harness.rehearsal import Rehearsal

Run = Callable[..., tuple[int, str, str]]
Stops = Callable[..., Iterator[int]]

both = pytest.mark.parametrize("stops", [kills_at_writes, interrupts_at_writes])


@pytest.fixture
def made(tmp_path: Path) -> Rehearsal:
    rehearsal = old_deployment(tmp_path)
    with rehearsal.ledger():
        pass  # migrated, as `fedquit serve` does
    return rehearsal


def links(folder: Path) -> int:
    """Return the largest number of names that a model has."""
    return max(path.stat().st_nlink for path in (folder / "models").iterdir())


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@both
def test_a_backup_stopped_at_any_change_leaves_no_name_of_a_model(
    made: Rehearsal, tmp_path: Path, stops: Stops
) -> None:
    (tmp_path / "to").mkdir()
    to = tmp_path / "to" / "saved.tar"
    kills = 0
    for kills in stops(lambda: make_backup(made.server, to), tmp_path, lambda: to.unlink(missing_ok=True)):
        if to.exists():
            restore_backup(to, tmp_path / "whole" / "server")
            shutil.rmtree(tmp_path / "whole")
        if to.exists() or kills % 2:  # a purge, or a coordinator that starts, clears away what is left, ...
            remove_unfinished_backup(made.server)
        else:  # ... and so does the next backup
            make_backup(made.server, to)
        assert links(made.server) == 1
        assert {path.name for path in (tmp_path / "to").iterdir()} <= {to.name}
    assert kills > 15


def test_a_coordinator_that_starts_removes_what_a_killed_backup_left(made: Rehearsal, tmp_path: Path) -> None:
    for _ in kills_at_writes(lambda: make_backup(made.server, tmp_path / "saved.tar"), tmp_path, lambda: None):
        if links(made.server) > 1:
            break
    assert links(made.server) == 2
    place = open_place(MeteredGrid(made.grid(), {}, patience=600), made.server)
    place.close()
    place.ledger.close()
    assert links(made.server) == 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_second_backup_at_the_same_time_is_refused_and_harms_none(made: Rehearsal, tmp_path: Path) -> None:
    with filelock.FileLock(str(made.server / ".backup.lock")):
        (made.server / ".backup").mkdir()
        with pytest.raises(FedquitError, match=r"another backup of .* is being made; wait"):
            make_backup(made.server, tmp_path / "saved.tar")
        assert (made.server / ".backup").exists()
    make_backup(made.server, tmp_path / "saved.tar")
    assert not (made.server / ".backup").exists()


@both
def test_a_restore_stopped_at_any_change_is_done_by_the_same_command(
    made: Rehearsal, tmp_path: Path, stops: Stops
) -> None:
    saved = make_backup(made.server, tmp_path / "saved.tar").path
    restore_backup(saved, tmp_path / "right" / "server")
    right, into = content(tmp_path / "right"), tmp_path / "into"
    kills, whole = 0, 0
    for _ in stops(
        lambda: restore_backup(saved, into / "server"), into, lambda: shutil.rmtree(into, ignore_errors=True)
    ):
        kills += 1
        if (into / "server").exists():
            whole += 1
        else:
            assert "Run the same command again" in note(into)
            restore_backup(saved, into / "server")
            assert not (into / ".server.restoring").exists()
        shutil.rmtree(into / ".server.restoring", ignore_errors=True)
        assert {name: text for name, text in content(into).items() if "/deploy/" not in name} == {
            name: text for name, text in right.items() if "/deploy/" not in name
        }
        assert content(into).keys() == right.keys()
    assert kills > 20
    assert whole > 0


def note(into: Path) -> str:
    """Return what a folder that a killed restore left says; before there is one, or a note in it, nothing is there."""
    left = into / ".server.restoring"
    if not (left / "UNFINISHED").exists():
        assert not (left / "server").exists()
        return "Run the same command again"
    return (left / "UNFINISHED").read_text() or "Run the same command again"  # it was being written


@pytest.mark.parametrize("fails", [1, 2])
def test_a_restore_whose_last_step_fails_leaves_nothing_and_can_be_repeated(
    made: Rehearsal, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    saved, into, calls = make_backup(made.server, tmp_path / "saved.tar").path, tmp_path / "into", list[Path]()

    def sync_folder(folder: Path) -> None:
        calls.append(folder)
        if len(calls) == fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("fedquit.server.provision.backup.restore_backup.sync_folder", sync_folder)
        code, _, said = run("restore", saved, into / "server")
    assert (code, said.count("\n")) == (1, 1)
    assert f"cannot write {into / 'server'}: Input/output error" in said
    assert list(into.iterdir()) == []
    restore_backup(saved, into / "server")
    assert {path.name for path in into.iterdir()} == {"authority", "server"}


def test_a_restore_with_another_authority_beside_it_is_refused(made: Rehearsal, tmp_path: Path, run: Run) -> None:
    saved = make_backup(made.server, tmp_path / "saved.tar").path
    (tmp_path / "into" / "authority").mkdir(parents=True)
    (tmp_path / "into" / "authority" / "ca.key").write_text("another")
    code, _, err = run("restore", saved, tmp_path / "into" / "server")
    assert (code, "the backup has another" in err, (tmp_path / "into" / "server").exists()) == (4, True, False)


@pytest.mark.parametrize("data", ["../trusted.npz", "/srv/trusted.npz", "sub/../../trusted.npz"])
def test_a_validation_set_outside_the_folder_is_named_and_left_out(
    made: Rehearsal, tmp_path: Path, run: Run, data: str
) -> None:
    text = (made.server / "server.toml").read_text().replace('data = "trusted.npz"', f'data = "{data}"')
    assert data in text
    (made.server / "server.toml").write_text(text)
    shutil.copy(made.server / "trusted.npz", made.server.parent / "trusted.npz")
    code, _, err = run("backup", made.server, tmp_path / "saved.tar")
    assert (code, f"not in the backup: {data}, which [trusted] data names outside" in err) == (0, True), err
    restore_backup(tmp_path / "saved.tar", tmp_path / "into" / "server")


def _stopped(into: Path) -> None:
    if (into / "server").exists():
        raise KeyboardInterrupt


def _cannot_sync(_folder: Path) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def databases(made: Rehearsal, postgresql: str) -> list[str]:
    """Return two databases: the one with the server's ledger, and an empty one."""
    import psycopg

    names = [f"killed{time.time_ns()}_{n}" for n in range(2)]
    with psycopg.connect(postgresql.replace("+psycopg", ""), autocommit=True) as connection:
        for name in names:
            connection.execute(f"CREATE DATABASE {name}".encode())
    urls = [postgresql.rpartition("/")[0] + f"/{name}" for name in names]
    text = (made.server / "server.toml").read_text()
    (made.server / "server.toml").write_text(f'{text}\n[server]\nledger = "{urls[0]}"\n')
    ledger = Ledger.open(urls[0], seal=read_seal(made.server / "receipts.key"))
    ledger.enrol("north", b"key")
    ledger.close()
    return urls


def test_a_restore_that_fails_or_is_killed_leaves_postgresql_to_the_next(
    made: Rehearsal, tmp_path: Path, databases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, into = make_backup(made.server, tmp_path / "saved.tar").path, tmp_path / "into"
    with monkeypatch.context() as patch:  # it fails after the database has it: the database is empty again
        patch.setattr("fedquit.server.provision.backup.restore_backup._move", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            restore_backup(saved, into / "server", ledger=databases[1])
    assert not (into / "server").exists()
    with monkeypatch.context() as patch:  # the folder is in its place: it is taken out with the ledger
        patch.setattr("fedquit.server.provision.backup.restore_backup.sync_folder", _cannot_sync)
        with pytest.raises(FedquitError, match="Input/output error"):
            restore_backup(saved, into / "server", ledger=databases[1])
    assert not (into / "server").exists()
    with monkeypatch.context() as patch:  # so it is when its user stops it just then
        patch.setattr("fedquit.server.provision.backup.restore_backup.sync_folder", _stopped)
        with pytest.raises(KeyboardInterrupt):
            restore_backup(saved, into / "server", ledger=databases[1])
    assert not (into / "server").exists()


@both
def test_a_restore_stopped_at_any_change_leaves_postgresql_to_the_next(
    made: Rehearsal, tmp_path: Path, databases: list[str], stops: Stops
) -> None:
    saved, into = make_backup(made.server, tmp_path / "saved.tar").path, tmp_path / "into"

    def restore() -> None:
        restore_backup(saved, into / "server", ledger=databases[1])

    def begin() -> None:
        shutil.rmtree(into, ignore_errors=True)
        drop_ledger(databases[1])

    kills = 0
    for _ in stops(restore, into, begin):
        kills += 1
        if not (into / "server").exists():
            restore()
        ledger = Ledger.open(databases[1], seal=read_seal(into / "server" / "receipts.key"))
        assert (ledger.check_chain(), [member.name for member in ledger.members()]) == ([], ["north"])
        ledger.close()
    assert kills > 20


def test_ctrl_c_between_any_lines_leaves_a_server_in_its_place_its_ledger(
    made: Rehearsal, tmp_path: Path, databases: list[str]
) -> None:
    saved, into = make_backup(made.server, tmp_path / "saved.tar").path, tmp_path / "into"

    def restore() -> None:
        restore_backup(saved, into / "server", ledger=databases[1])

    def begin() -> None:
        shutil.rmtree(into, ignore_errors=True)
        drop_ledger(databases[1])

    places = set[bool]()
    modules = (restore_module, restore_folder, ledger_copy, contextlib)
    for _ in interrupts_at_lines(restore, modules, (into / "server").exists, begin):
        places.add((into / "server").exists())
        if not (into / "server").exists():
            restore()
        ledger = Ledger.open(databases[1], seal=read_seal(into / "server" / "receipts.key"))
        assert (ledger.check_chain(), [member.name for member in ledger.members()]) == ([], ["north"])
        ledger.close()
    assert places == {True, False}, "moved back, or left there"


def test_a_restore_into_a_database_with_a_ledger_is_refused(
    made: Rehearsal, tmp_path: Path, databases: list[str]
) -> None:
    saved = make_backup(made.server, tmp_path / "saved.tar").path
    with pytest.raises(FedquitError, match="the database holds a ledger already: give --ledger URL of an empty one"):
        restore_backup(saved, tmp_path / "into" / "server")
    ledger = Ledger.open(databases[0], seal=read_seal(made.server / "receipts.key"))
    assert [member.name for member in ledger.members()] == ["north"]
    ledger.close()


MOVE = "fedquit.server.provision.backup.restore_backup._move"


def killed_at_its_last_step(restore: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *, done: bool) -> None:
    """Kill a restore before it moves the server into its place, or after."""

    def move(staging: Path, to: Path) -> None:
        if done:
            _move(staging, to)
        os._exit(9)

    with monkeypatch.context() as patch:
        patch.setattr(MOVE, move)
        process = multiprocessing.get_context("fork").Process(target=restore)
        process.start()
        process.join(120)
    assert process.exitcode == 9


@pytest.mark.parametrize("undone", [True, False])
@pytest.mark.parametrize("step", ["rename", "sync"])
def test_a_restore_stopped_by_its_user_as_it_moves_the_server_takes_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, undone: bool
) -> None:
    staging, into, rename = tmp_path / "staging", tmp_path / "into", Path.rename
    for part in ("server", "authority"):
        (staging / part).mkdir(parents=True)
        (staging / part / "file").write_text(part)
    into.mkdir()

    def stop() -> None:
        """Stop it once the server is in its place; if it is not to be undone, something is where it came from."""
        if (into / "server").exists() and not (staging / "server").exists():
            if not undone:
                (staging / "server").write_text("in the way")
            raise KeyboardInterrupt

    def rename_and_stop(source: Path, target: Path) -> None:
        rename(source, target)
        stop()

    if step == "rename":
        monkeypatch.setattr(Path, "rename", rename_and_stop)
    else:
        monkeypatch.setattr("fedquit.server.provision.backup.restore_backup.sync_folder", lambda _folder: stop())
    with pytest.raises(KeyboardInterrupt):
        _move(staging, into / "server")
    assert [path.name for path in into.iterdir()] == ([] if undone else ["server"])
    assert (staging / "authority" / "file").read_text() == "authority"


def test_a_restore_takes_no_ledger_that_has_gone_on_since_for_its_own(
    made: Rehearsal, tmp_path: Path, databases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, into = make_backup(made.server, tmp_path / "saved.tar").path, tmp_path / "into"

    def restore() -> None:
        restore_backup(saved, into / "server", ledger=databases[1])

    killed_at_its_last_step(restore, monkeypatch, done=True)
    ledger = Ledger.open(databases[1], seal=read_seal(into / "server" / "receipts.key"))
    ledger.enrol("south", b"another key")
    (into / "server").rename(tmp_path / "away")
    with pytest.raises(FedquitError, match="and has gone on since a restore of this backup: give --ledger URL of an e"):
        restore()
    with pytest.raises(FedquitError, match="the database holds a ledger already"):
        restore()
    assert [member.name for member in ledger.members()] == ["north", "south"]
    ledger.close()
    assert [path.name for path in into.iterdir()] == ["authority"]


def test_a_restore_that_fails_after_a_killed_one_leaves_it_to_a_third(
    made: Rehearsal, tmp_path: Path, databases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, into = make_backup(made.server, tmp_path / "saved.tar").path, tmp_path / "into"

    def restore() -> None:
        restore_backup(saved, into / "server", ledger=databases[1])

    for fails in (MOVE, "fedquit.server.provision.backup.restore_backup.Manifest.check"):  # late, and before the ledger
        killed_at_its_last_step(restore, monkeypatch, done=False)
        with monkeypatch.context() as patch:
            patch.setattr(fails, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                restore()
        assert not (into / ".server.restoring" / "server").exists()
        restore()
        ledger = Ledger.open(databases[1], seal=read_seal(into / "server" / "receipts.key"))
        assert [member.name for member in ledger.members()] == ["north"]
        ledger.close()
        assert {path.name for path in into.iterdir()} == {"server", "authority"}
        shutil.rmtree(into)
        drop_ledger(databases[1])
