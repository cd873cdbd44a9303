"""Ledgers to test: on SQLite, and on PostgreSQL in a schema of each test's own."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedquit.server.ledger import Contribution, Ledger, NewRequest, Step

_schemas = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where a new ledger may be: a file, or a schema of its own."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    import psycopg

    server = str(request.getfixturevalue("postgresql"))
    schema = f"test{next(_schemas)}"
    with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
    return f"{server}?options=-csearch_path%3D{schema}"


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_ledger(url: str, clock: Clock) -> Iterator[Callable[..., Ledger]]:
    """Open the ledger of this test, as often as wanted."""
    opened = []

    def open_it(**options: Any) -> Ledger:
        opened.append(Ledger.open(url, **{"clock": clock, **options}))
        return opened[-1]

    yield open_it
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: Callable[..., Ledger]) -> Ledger:
    return open_ledger()


@pytest.fixture
def ask() -> Callable[..., NewRequest]:
    """Build a request; the same text gives the same one."""

    def build(subject: int = 0, text: str = "forget me", **fields: Any) -> NewRequest:
        given = {"asked_by": "f" * 64, "granularity": "client", "signature": b"signed", "deadline": 2e6}
        content = text.encode()
        return NewRequest(hashlib.sha256(content).hexdigest(), subject, ask=content, **{**given, **fields})

    return build


@pytest.fixture
def make_step() -> Callable[..., Step]:
    """Build a step to which the given members contribute."""

    def build(number: int, members: tuple[int, ...] = (), **fields: Any) -> Step:
        return Step(
            **{
                "number": number,
                "phase": "train",
                "request": None,
                "model_before": f"{number - 1:064x}",
                "model_after": f"{number:064x}",
                "round": number,
                "contributions": tuple(Contribution(member, 10 + member, f"{member:064x}") for member in members),
                "refused": 0,
                "seconds": 1.5,
                "device_seconds": 2.0,
                "bytes_down": 2**40,
                "bytes_up": 7,
                "measures": {"holdout_accuracy": 0.5, "loss": 1.0},
                "at": 1_000_000.25,
                **fields,
            }
        )

    return build
