"""Service and coordinator hold the ledger open at once, and either may be killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

import fedquit
from fedquit.errors import FedquitError, StateError
from fedquit.server.ledger import Ledger, NewRequest
from fedquit.server.ledger.storage.tables import metadata

WRITES = 25


def write_notes(url: str, who: int) -> None:
    """Open the ledger, perhaps as the first, and write."""
    ledger = Ledger.open(url)
    for number in range(WRITES):
        ledger.note("said", member=who, facts={"n": number})
    ledger.close()


def test_processes_that_open_a_new_ledger_and_write_at_once_lose_nothing(url: str) -> None:
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(write_notes, [url] * 3, range(3)))
    ledger = Ledger.open(url)
    events = ledger.events()
    assert ledger.check_chain() == []
    for who in range(3):
        assert [event.facts["n"] for event in events if event.member == who] == list(range(WRITES))
    ledger.close()


def test_who_opens_a_new_ledger_at_once_makes_it_once(url: str) -> None:
    together = threading.Barrier(4)

    def begin(who: int) -> None:
        together.wait(30)
        ledger = Ledger.open(url)
        ledger.note("opened", member=who)
        ledger.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(begin, range(4)))
    ledger = Ledger.open(url)
    assert (len(ledger.events()), ledger.check_chain()) == (4, [])
    ledger.close()


def test_of_coordinators_that_take_a_request_at_once_one_has_it(
    open_ledger: Callable[..., Ledger], ask: Callable[..., NewRequest]
) -> None:
    ledgers = [open_ledger() for _ in range(4)]
    ledgers[0].enrol("north", b"key")
    for number in range(5):
        id_ = ledgers[0].take(ask(text=f"request {number}"))[0].id
        together = threading.Barrier(len(ledgers))

        def begin(ledger: Ledger, id_: str = id_, together: threading.Barrier = together) -> bool:
            together.wait(30)
            try:
                ledger.advance(id_, of="asked", to="forgetting", kind="forgetting")
            except StateError:
                return False
            return True

        with ThreadPoolExecutor(len(ledgers)) as pool:
            assert sum(pool.map(begin, ledgers)) == 1
        assert [event.kind for event in ledgers[0].events(request=id_)] == ["asked", "forgetting"]
        ledgers[0].advance(id_, of="forgetting", to="failed", kind="failed")


def test_of_services_that_take_the_same_ask_at_once_one_stores_it(
    open_ledger: Callable[..., Ledger], ask: Callable[..., NewRequest]
) -> None:
    ledgers = [open_ledger() for _ in range(4)]
    ledgers[0].enrol("north", b"key")
    with ThreadPoolExecutor(len(ledgers)) as pool:
        taken = list(pool.map(lambda ledger: ledger.take(ask()), ledgers))
    assert sorted(stored for _, stored in taken) == [False, False, False, True]
    assert len({request.id for request, _ in taken}) == len(ledgers[0].requests()) == 1


DYING = """
import os, signal, sys
from fedquit.server.ledger import Ledger
ledger = Ledger.open(sys.argv[1])
ledger.enrol("north", b"key")
ledger.note("returned")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_returned_is_there_after_kill_9(url: str) -> None:
    died = subprocess.run([sys.executable, "-c", DYING, url], check=False, timeout=120, env=environment())
    assert died.returncode == -signal.SIGKILL
    ledger = Ledger.open(url)
    assert (ledger.member(0).name, [event.kind for event in ledger.events()]) == ("north", ["enrolled", "returned"])
    assert ledger.check_chain() == []
    ledger.close()


def environment() -> dict[str, str]:
    """Let a child import the fedquit that is tested."""
    return {**os.environ, "PYTHONPATH": str(Path(fedquit.__file__).resolve().parent.parent)}


def test_commits_are_awaited_whatever_the_databases_default_is(open_ledger: Callable[..., Ledger]) -> None:
    ledger = open_ledger()
    with ledger._database.write() as connection:
        if connection.dialect.name == "sqlite":
            pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            said = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
            assert said == ["wal", 2, 1, 60_000]
        else:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


def test_the_migrations_make_the_tables_that_the_code_uses(open_ledger: Callable[..., Ledger]) -> None:
    with open_ledger()._database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize("write", [True, False])
def test_a_ledger_of_a_newer_fedquit_is_refused_and_left_as_it_is(open_ledger: Callable[..., Any], write: bool) -> None:
    with open_ledger()._database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(FedquitError, match=r"newer fedquit \(revision 9999\); install that version"):
        open_ledger(write=write)
