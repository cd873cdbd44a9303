"""Whatever is done to a ledger, it is what a plain dictionary would be; whatever is done behind its back shows."""

import hashlib
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fedquit.errors import FedquitError, StateError
from fedquit.server.ledger import ENDS, STATES, Contribution, Ledger, NewRequest, Step
from fedquit.server.ledger.request_states import FOLLOWING

TABLES = ("members", "requests", "steps", "contributions", "events", "head")


class Machine(RuleBasedStateMachine):
    """A ledger beside a model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="fedquit-machine-"))
        self.ledger = Ledger.open(f"sqlite:///{self.folder / 'ledger.db'}")
        self.members: dict[int, str] = {}  # number -> status
        self.requests: dict[str, tuple[int, str]] = {}  # id -> subject, status
        self.steps: list[Step] = []
        self.events = 0

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.folder)

    @rule(key=st.integers(0, 4))
    def enrol(self, key: int) -> None:
        member = self.ledger.enrol(f"member {key}", b"key %d" % key)
        if member.number not in self.members:
            assert member.number == len(self.members)
            self.members[member.number] = "active"
            self.events += 1
        assert member.status == self.members[member.number]

    @rule(text=st.integers(0, 5), subject=st.integers(0, 5))
    def take(self, text: int, subject: int) -> None:
        ask = b"ask %d" % text
        new = NewRequest(hashlib.sha256(ask).hexdigest(), subject, "f", "client", ask, b"s", 1.0)
        if new.id not in self.requests and subject not in self.members:
            with pytest.raises(FedquitError):
                self.ledger.take(new)
            return
        taken, stored = self.ledger.take(new)
        assert stored == (new.id not in self.requests)
        if stored:
            self.requests[new.id] = (subject, "asked")
            self.events += 1
        assert (taken.subject, taken.status) == self.requests[new.id]

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), of=st.sampled_from(STATES), to=st.sampled_from(STATES), withdraw=st.booleans())
    def advance(self, data: st.DataObject, of: str, to: str, withdraw: bool) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.requests)))
        subject, status = self.requests[id_]
        if data.draw(st.booleans()):
            of = status
        others = any(state == "recovering" for other, (_, state) in self.requests.items() if other != id_)
        fits = of == status and to in FOLLOWING[of] and not (of == to and of in ENDS)
        if not fits or (to == "recovering" and others):
            with pytest.raises(StateError):
                self.ledger.advance(id_, of=of, to=to, kind=to)
            return
        step = self.next_step(data, "forget", id_) if data.draw(st.booleans()) else None
        self.ledger.advance(id_, of=of, to=to, kind=to, withdraw=withdraw, step=step)
        self.requests[id_] = (subject, to)
        self.steps += [step] if step else []
        self.members[subject] = "withdrawn" if withdraw else self.members[subject]
        self.events += 1

    @rule(data=st.data(), ahead=st.sampled_from([0, 0, 0, 1, -1]))
    def add_step(self, data: st.DataObject, ahead: int) -> None:
        step = self.next_step(data, "train", None, ahead)
        if ahead or any(self.members[given.member] == "withdrawn" for given in step.contributions):
            with pytest.raises(StateError):
                self.ledger.add_step(step)
            return
        self.ledger.add_step(step)
        self.steps.append(step)
        self.events += 1

    def next_step(self, data: st.DataObject, phase: str, request: str | None, ahead: int = 0) -> Step:
        members = data.draw(st.sets(st.sampled_from(sorted(self.members)))) if self.members else set()
        given = tuple(Contribution(member, data.draw(st.integers(0, 9)), "d") for member in sorted(members))
        measures = {"loss": data.draw(st.floats(allow_nan=False, allow_infinity=False))}
        number = len(self.steps) + 1 + ahead
        return Step(number, phase, request, "b", "a", number, given, 0, 0.5, 0.25, 1, 2, measures, 3.5)

    @rule()
    def open_again(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(f"sqlite:///{self.folder / 'ledger.db'}")

    @invariant()
    def is_what_the_model_is(self) -> None:
        assert {member.number: member.status for member in self.ledger.members()} == self.members
        assert {found.id: (found.subject, found.status) for found in self.ledger.requests()} == self.requests
        assert self.ledger.steps() == self.steps
        assert self.ledger.head()[0] == len(self.ledger.events()) == self.events
        assert self.ledger.check_chain() == []

    @precondition(lambda self: self.events)
    @rule(data=st.data())
    def tamper_with_a_copy(self, data: st.DataObject) -> None:
        copy = self.folder / "copy.db"
        with sqlite3.connect(self.folder / "ledger.db") as source, sqlite3.connect(copy) as target:
            source.backup(target)
        source.close()
        with target:
            done = tamper(target, data)
        target.close()
        ledger = Ledger.open(f"sqlite:///{copy}", write=False)
        wrong = ledger.check_chain()
        ledger.close()
        for left in self.folder.glob("copy.db*"):
            left.unlink()
        assert wrong, done


def tamper(connection: sqlite3.Connection, data: st.DataObject) -> str:
    """Edit, remove, copy or swap rows of any table, and say what was done."""
    filled = [table for table in TABLES if connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]]
    table = data.draw(st.sampled_from(filled))
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    rows = [row[0] for row in connection.execute(f"SELECT rowid FROM {table} ORDER BY rowid")]
    row = data.draw(st.sampled_from(rows))
    how = data.draw(st.sampled_from(["edit", "remove", "swap"]))
    if how == "remove":
        connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
        return f"removed a row of {table}"
    if how == "swap" and table == "events" and len(rows) > 1:
        other = data.draw(st.sampled_from([number for number in rows if number != row]))
        for old, new in ((row, -1), (other, row), (-1, other)):
            connection.execute("UPDATE events SET number = ? WHERE number = ?", (new, old))
        return f"swapped events {row} and {other}"
    column = data.draw(st.sampled_from([name for name in columns if (table, name) not in UNSEALED]))
    before = connection.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (row,)).fetchone()[0]
    values = st.sampled_from(["x", "", 77, 7.25, b"x"]).filter(lambda value: value != before)
    value: Any = data.draw(values)
    try:
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
    except sqlite3.IntegrityError:
        connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
    after = connection.execute(f"SELECT {column} FROM {table} WHERE {column} IS ?", (before,)).fetchall()
    return f"{table}.{column}: {before!r} became {value!r} ({len(after)} rows are as before)"


UNSEALED = {("head", "id"), ("head", "seal")}  # without a key the seal says nothing; the head's id is no fact

Machine.TestCase.settings = settings(max_examples=15, stateful_step_count=15, suppress_health_check=list(HealthCheck))
TestMachine = Machine.TestCase
