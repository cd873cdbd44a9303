"""What a ledger promises after years: sums that are right, checks that read the news alone, old ones that migrate."""

import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedquit.server.ledger import Ed25519Seal, Ledger, MemberTotals, NewRequest, PhaseTotals, Step
from fedquit.server.ledger.audit_log.mark import Mark
from fedquit.server.ledger.storage.database import Database, alone
from fedquit.server.ledger.storage.migrate import _config
from tests.fixtures.v0_1_0.unpack import MADE
from tests.server.ledger.database_work import counted

Ask = Callable[..., NewRequest]
MakeStep = Callable[..., Step]
Open = Callable[..., Ledger]
Run = Callable[..., tuple[int, str, str]]
SEAL = Ed25519Seal(Ed25519PrivateKey.generate())


@pytest.fixture
def file(tmp_path: Path, ask: Ask, make_step: MakeStep) -> Path:
    """Make a sealed ledger with members, requests and steps."""
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}", seal=SEAL)
    for number in range(3):
        ledger.enrol(f"member {number}", b"key %d" % number)
    for number in range(1, 4):
        ledger.add_step(make_step(number, (0, 1, 2)))
    ledger.take(ask())
    ledger.close()
    return tmp_path / "ledger.db"


def marked(file: Path) -> Mark:
    ledger = Ledger.open(f"sqlite:///{file}", seal=SEAL, write=False)
    wrong, mark = ledger.check_on(None)
    ledger.close()
    assert mark is not None, wrong
    return mark


def later(file: Path, make_step: MakeStep, ask: Ask) -> None:
    """Have everything happen that may after a mark: a new member, steps, a request that changes and another."""
    ledger = Ledger.open(f"sqlite:///{file}", seal=SEAL)
    ledger.enrol("member 3", b"key 3")
    ledger.add_step(make_step(4, (0, 3)))
    ledger.take(ask(1, "me too"))
    ledger.advance(ask().id, of="asked", to="forgetting", kind="forgetting", withdraw=True)
    ledger.revoke(1)
    ledger.note("purged", facts={"models": 2})
    ledger.close()


def wrong_since(file: Path, mark: Mark, *statements: str) -> list[str]:
    """Return what a check from a mark finds on a copy of the ledger on which someone ran these statements."""
    copy = file.with_name("copy.db")
    shutil.copy(file, copy)
    with sqlite3.connect(copy) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    ledger = Ledger.open(f"sqlite:///{copy}", seal=SEAL, write=False)
    try:
        wrong, further = ledger.check_on(mark)
        assert (further is None) == bool(wrong)
        return wrong
    finally:
        ledger.close()


def test_a_check_goes_on_from_where_the_last_one_ended(file: Path, make_step: MakeStep, ask: Ask) -> None:
    mark = marked(file)
    later(file, make_step, ask)
    assert wrong_since(file, mark) == []


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE events SET kind = 'nothing' WHERE number = 9", "event 9 was altered"),
        ("DELETE FROM events WHERE number = 9", "event 9 is missing"),
        ("DELETE FROM events WHERE number > 10", "its tail was cut off"),
        ("UPDATE events SET digest = 'ab' WHERE number = 7", "event 7 is not the one that was checked"),
        ("DELETE FROM events WHERE number >= 7", "event 7 is not the one that was checked"),
        ("UPDATE head SET seal = x'00'", "the seal of the head is wrong"),
        ("UPDATE steps SET bytes_up = 1 WHERE number = 4", "step 4 was altered"),
        ("UPDATE contributions SET num_examples = 1 WHERE step = 4 AND member = 3", "step 4 was altered"),
        ("UPDATE members SET status = 'active' WHERE number = 1", "member 1 was altered"),
        ("UPDATE requests SET status = 'done' WHERE place = 1", "was altered"),
        ("DELETE FROM members WHERE number = 3", "member 3 was removed"),
        ("DELETE FROM requests WHERE place = 1", "was removed"),
        ("DELETE FROM steps WHERE number = 2", "rows were inserted or removed"),
        ("DELETE FROM contributions WHERE step = 2", "rows were inserted or removed"),
        (
            "INSERT INTO members SELECT 4, name, role, 'f', key, status, enrolled_at FROM members WHERE number = 1",
            "there are 5 members, and the log says 4: rows were inserted or removed",
        ),
        ("INSERT INTO contributions VALUES (9, 0, 5, '')", "rows were inserted or removed"),
    ],
    ids=lambda value: value[:50],
)
def test_nothing_after_a_mark_is_altered_unseen(
    file: Path, make_step: MakeStep, ask: Ask, statement: str, said: str
) -> None:
    mark = marked(file)
    later(file, make_step, ask)
    wrong = wrong_since(file, mark, statement)
    assert any(said in line for line in wrong), wrong


def test_a_forged_mark_is_refused_unless_the_server_sealed_that_head(file: Path, make_step: MakeStep, ask: Ask) -> None:
    early = marked(file)
    later(file, make_step, ask)
    forged = Mark(12, "ab" * 32, early.rows, Ed25519Seal(Ed25519PrivateKey.generate()).sign(b"head").hex())
    for mark in (forged, Mark(early.number + 1, early.digest, early.rows, early.seal), Mark(12, "ab", early.rows)):
        assert "was altered: its seal is not that of the server" in wrong_since(file, mark)[0]


def test_whoever_moves_the_mark_past_an_edit_is_found_by_the_full_check(
    file: Path, make_step: MakeStep, ask: Ask
) -> None:
    early = marked(file)
    later(file, make_step, ask)
    moved, edit = marked(file), "UPDATE steps SET bytes_up = 1 WHERE number = 4"
    assert wrong_since(file, moved, edit) == []  # what lies before a mark is not read again; docs/ledger.md says so
    assert wrong_since(file, early, edit) != []
    ledger = Ledger.open(f"sqlite:///{file.with_name('copy.db')}", seal=SEAL, write=False)
    assert any("step 4 was altered" in line for line in ledger.check_chain())
    ledger.close()


def test_the_command_remembers_how_far_it_checked_and_checks_all_with_full(
    file: Path, make_step: MakeStep, ask: Ask, run: Run, tmp_path: Path
) -> None:
    at = tmp_path / "checked.json"
    code, _, err = run("ledger", "check", file, "--since", at)
    assert (code, "Sound: 7 events, seal not checked" in err) == (0, True)
    later(file, make_step, ask)
    code, out, _ = run("ledger", "check", file, "--since", at, "--json")
    assert (code, json.loads(out)["since"], json.loads(out)["sound"]) == (0, 7, True)
    sqlite3.connect(file, isolation_level=None).execute("UPDATE steps SET bytes_up = 1 WHERE number = 2")
    assert run("ledger", "check", file, "--since", at)[0] == 0
    before = at.read_text()
    code, out, _ = run("ledger", "check", file, "--since", at, "--full")
    assert (code, "step 2 was altered" in out, at.read_text()) == (1, True, before)
    assert run("ledger", "check", file)[0] == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"form": 1}', "\udcff", '{"form": "fedquit ledger mark v1"}'])
def test_a_file_that_holds_no_mark_is_an_error_of_one_line(file: Path, run: Run, tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    code, _, err = run("ledger", "check", file, "--since", tmp_path / "bad.json")
    assert (code, err.count("\n"), "bad.json" in err) == (4, 1, True)


def test_totals_are_the_sums_of_the_steps(open_ledger: Open, make_step: MakeStep, ask: Ask) -> None:
    ledger = open_ledger()
    for number in range(3):
        ledger.enrol(f"member {number}", b"key %d" % number)
    ledger.add_step(make_step(1, (0, 1)))
    ledger.add_step(make_step(2, (1,), refused=2))
    id_ = ledger.take(ask())[0].id
    ledger.advance(id_, of="asked", to="forgetting", kind="forgetting", withdraw=True)
    ledger.advance(
        id_, of="forgetting", to="recovering", kind="forgot", step=make_step(3, (0,), phase="forget", request=id_)
    )
    assert ledger.phase_totals() == {
        "train": PhaseTotals(2, 2, 3.0, 4.0, 2**41, 14),
        "forget": PhaseTotals(1, 0, 1.5, 2.0, 2**40, 7),
    }
    assert ledger.member_totals() == {0: MemberTotals(2, 3, 10), 1: MemberTotals(2, 2, 11)}
    assert ledger.check_chain() == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE phase_totals SET bytes_up = 0",
        "UPDATE phase_totals SET seconds = 'long'",
        "DELETE FROM phase_totals",
        "INSERT INTO phase_totals VALUES ('undo', 1, 0, 0, 0, 0, 0)",
        "UPDATE member_totals SET num_examples = 0 WHERE member = 1",
        "DELETE FROM member_totals WHERE member = 1",
    ],
)
def test_the_full_check_finds_totals_that_someone_edited(file: Path, statement: str) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(statement)
    connection.close()
    ledger = Ledger.open(f"sqlite:///{file}", seal=SEAL, write=False)
    (wrong,) = ledger.check_chain()
    ledger.close()
    assert "are not those of its steps" in wrong


def test_an_old_ledger_migrates_and_its_totals_are_those_of_its_steps(tmp_path: Path) -> None:
    with tarfile.open(MADE) as archive:
        archive.extract("made/server/ledger.db", tmp_path, filter="data")
    url = f"sqlite:///{tmp_path / 'made/server/ledger.db'}"
    ledger = Ledger.open(url)
    assert ledger.check_chain() == []
    totals, steps = ledger.phase_totals(), ledger.steps()
    assert len(steps) > 5
    assert {phase: totals[phase].steps for phase in totals} == {
        phase: sum(step.phase == phase for step in steps) for phase in {step.phase for step in steps}
    }
    gave = [given for step in steps for given in step.contributions]
    assert {n: t.steps for n, t in ledger.member_totals().items()} == {
        n: sum(given.member == n for given in gave) for n in {given.member for given in gave}
    }
    ledger.close()


def test_a_ledger_of_the_first_revision_migrates_on_either_database(
    url: str, make_step: MakeStep, clock: Callable[[], float]
) -> None:
    database = Database(url)
    with database.write() as connection:
        alone(connection)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql("INSERT INTO members VALUES (0, 'north', 'device', 'f', '', 'active', 0)")
        for number in (1, 2):
            step = f"({number}, 'train', NULL, 'a', 'b', {number}, 1, 1.5, 2.5, 10, 20, '{{}}', 0)"
            connection.exec_driver_sql(f"INSERT INTO steps VALUES {step}")
            connection.exec_driver_sql(f"INSERT INTO contributions VALUES ({number}, 0, {40 + number}, '')")
    database.close()
    ledger = Ledger.open(url, clock=clock)
    assert ledger.phase_totals() == {"train": PhaseTotals(2, 2, 3.0, 5.0, 20, 40)}
    assert ledger.member_totals() == {0: MemberTotals(2, 2, 42)}
    ledger.close()


def test_the_newest_steps_and_the_totals_take_no_longer_after_years(
    tmp_path: Path, make_step: MakeStep, ask: Ask
) -> None:
    done = {}
    for rounds in (50, 500):
        ledger = Ledger.open(f"sqlite:///{tmp_path / f'{rounds}.db'}")
        ledger.enrol("north", b"key")
        for number in range(1, rounds + 1):
            ledger.add_step(make_step(number, (0,)))
        ledger.take(ask())
        ledger.close()
        with counted() as work:
            ledger = Ledger.open(f"sqlite:///{tmp_path / f'{rounds}.db'}", write=False)
            begun = work.done
            assert len(ledger.newest_steps(20)) == len(ledger.steps(after=5, limit=20)) == 20
            assert ledger.phase_totals()["train"].steps == ledger.member_totals()[0].steps == rounds
            assert ledger.requests_by_status()["asked"] == len(ledger.request_lines(newest=5)) == 1
            assert ledger.last_step() is not None
            ledger.close()
        done[rounds] = work.done - begun
    assert done[500] < 1.2 * done[50], done
