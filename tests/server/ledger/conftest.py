"""Ledgers to test: each test runs on SQLite and on a PostgreSQL of the distribution, started here and ended here."""

import contextlib
import hashlib
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedquit.server.ledger import Contribution, Ledger, NewRequest, Step

PASSWORD = "only-for-tests"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # what is tested is that commits are awaited, not the disk
    "full_page_writes": "off",
    "synchronous_commit": "off",  # a careless default, which the ledger must not fall for
    "shared_buffers": "16MB",
    "max_connections": "40",
}


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Start a PostgreSQL on a free port, in a temporary folder, and give its URL."""
    programs = _programs()
    if programs is None:
        reason = "PostgreSQL is not installed (initdb is not found); on Debian: apt-get install postgresql"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    as_root = os.geteuid() == 0
    user = pwd.getpwnam("postgres" if _exists("postgres") else "nobody") if as_root else pwd.getpwuid(os.geteuid())
    who: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if as_root else {}
    folder = Path(tempfile.mkdtemp(prefix="fedquit-postgresql-"))
    try:
        (folder / "password").write_text(PASSWORD)
        for path in (folder, folder / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
        options = [
            "-U",
            "fedquit",
            "-A",
            "scram-sha-256",
            f"--pwfile={folder / 'password'}",
            "-E",
            "UTF8",
            "--no-locale",
        ]
        initdb = [programs / "initdb", "-D", folder / "data", "--no-sync", *options]
        made = subprocess.run(initdb, cwd=folder, capture_output=True, text=True, check=False, **who)
        assert made.returncode == 0, made.stderr
        port = _free_port()
        given = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("w") as log:
            command = [programs / "postgres", "-D", folder / "data", "-p", str(port), *given]
            server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **who)
        try:
            url = f"postgresql+psycopg://fedquit:{PASSWORD}@127.0.0.1:{port}/postgres"
            _wait_for(url, server, folder / "log")
            yield url
        finally:
            server.send_signal(signal.SIGQUIT)  # its data are thrown away: no need to write them out
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(30)
            server.kill()
            server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path | None:
    """Return the folder of PostgreSQL's programs; distributions keep them off the PATH."""
    found = shutil.which("initdb")
    if found and (Path(found).parent / "postgres").exists():
        return Path(found).parent
    versions = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(versions, key=lambda folder: int(folder.parent.name), default=None)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    import psycopg

    for _ in range(300):
        assert server.poll() is None, log.read_text()
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(url.replace("+psycopg", ""), connect_timeout=5).close()
            return
        time.sleep(0.1)
    pytest.fail(f"PostgreSQL did not start:\n{log.read_text()}")


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
