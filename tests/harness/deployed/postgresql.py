"""A PostgreSQL of the distribution for tests: in a temporary folder, ended and removed after them.

A run that was killed cannot do that, and its server goes on. So a run keeps the lock of its folder, and the next one
ends and removes what it finds unlocked.
"""

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

import filelock

from fedquit.client.device.join import free_port
from tests.harness.waiting import until

PREFIX, LOCK = "fedquit-postgresql-", "run.lock"
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


@contextlib.contextmanager
def running_postgresql(programs: Path) -> Iterator[str]:
    """Start a PostgreSQL on a free port, in a temporary folder, and yield its URL.

    Args:
        programs: the folder of PostgreSQL's programs.
    """
    remove_abandoned(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = filelock.FileLock(str(folder / LOCK))
    try:
        lock.acquire()
        yield from _served(programs, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release(force=True)


def _served(programs: Path, folder: Path) -> Iterator[str]:
    as_root = os.geteuid() == 0
    user = pwd.getpwnam("postgres" if _exists("postgres") else "nobody") if as_root else pwd.getpwuid(os.geteuid())
    who: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if as_root else {}
    (folder / "password").write_text(PASSWORD)
    for path in (folder, folder / "password"):
        os.chown(path, user.pw_uid, user.pw_gid)
    access = ["-U", "fedquit", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}"]
    initdb = [str(programs / "initdb"), "-D", str(folder / "data"), "--no-sync", "-E", "UTF8", "--no-locale", *access]
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


def remove_abandoned(place: Path) -> None:
    """End the servers and remove the folders of runs that were killed; a folder without a lock is not ours."""
    for folder in place.glob(f"{PREFIX}*"):
        if not (folder / LOCK).exists():
            continue
        lock = filelock.FileLock(str(folder / LOCK), timeout=0)
        with contextlib.suppress(filelock.Timeout, OSError), lock:  # its run is at work; it is another user's
            _end_server(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _end_server(folder: Path) -> None:
    """End the server whose data are in a folder, if it still is at work."""
    try:
        process = int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        is_it = str(folder / "data") in Path(f"/proc/{process}/cmdline").read_text().split("\0")
    except (OSError, ValueError, IndexError):
        return
    if is_it:
        os.kill(process, signal.SIGQUIT)
        until(lambda: not is_at_work(process), "end of PostgreSQL")


def is_at_work(process: int) -> bool:
    """Say whether a process has not ended; one that its parent has not looked after yet has."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def postgresql_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, which distributions keep off the PATH; None: it is not installed."""
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
