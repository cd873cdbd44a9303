"""A PostgreSQL of the distribution, started by the tests that want one and ended after them."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedquit.client.device.join import free_port
from tests.harness.waiting import until

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
        initdb = [str(programs / "initdb"), "-D", str(folder / "data"), "--no-sync", *options]
        made = subprocess.run(initdb, cwd=folder, capture_output=True, text=True, check=False, **who)
        assert made.returncode == 0, made.stderr
        port = free_port()
        given = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("w") as log:
            command = [str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port), *given]
            server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, text=True, **who)
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


def _wait_for(url: str, server: "subprocess.Popen[str]", log: Path) -> None:
    import psycopg

    def there() -> bool:
        assert server.poll() is None, log.read_text()
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(url.replace("+psycopg", ""), connect_timeout=60).close()
            return True
        return False

    until(there, "PostgreSQL", moving=log.read_text)
