"""What a backup that is being made keeps in the server's folder, and what is left of one that was killed.

FOLDER/.backup holds hard links to models, and says where the rest is: beside the file that the backup is to become. A
request must not end with a model of its data still there. So whoever finds the lock free, which ends with its process,
removes all of it: the next backup, a coordinator that starts, and the end of each request. What a backup that is being
made holds, the receipt of the request says.
"""

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from fedquit.errors import FedquitError
from fedquit.files import explained, write_whole

LINKS, LOCK, ELSEWHERE = ".backup", ".backup.lock", "elsewhere"
WORK = re.compile(r"\..+\.backup-[0-9a-f]{8}")


@contextmanager
def backup_folders(folder: Path, to: Path) -> Iterator[tuple[Path, Path]]:
    """Make the two folders of a backup of the server in `folder` into the file `to`, and remove them afterwards.

    Yields:
        The one for hard links, in the server's folder, and the one beside `to`, both for their owner alone.

    Raises:
        FedquitError: another backup of this server is being made, or they cannot be made.
    """
    with explained(folder):
        lock = filelock.FileLock(str(folder / LOCK), timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise FedquitError(f"another backup of {folder} is being made; wait until it is done") from None
    try:
        _remove(folder)
        links, work = folder / LINKS, to.absolute().parent / f".{to.name}.backup-{secrets.token_hex(4)}"
        with explained(links):
            links.mkdir(mode=0o700)
        write_whole(links / ELSEWHERE, str(work).encode())
        with explained(to):
            work.mkdir(mode=0o700)
        yield links, work
    finally:
        _remove(folder)
        lock.release()


def remove_unfinished_backup(folder: Path) -> None:
    """Remove what a backup that was killed left of the server in `folder`; one that is being made stays."""
    if not (folder / LINKS).exists():
        return
    lock = filelock.FileLock(str(folder / LOCK), timeout=0)
    try:
        lock.acquire()
    except (filelock.Timeout, OSError):
        return
    try:
        _remove(folder)
    finally:
        lock.release()


def models_in_backup(folder: Path) -> set[str]:
    """Return the models that a backup which is being made, of the server in `folder`, holds under a second name."""
    try:
        return {path.stem for path in (folder / LINKS / "models").iterdir()}
    except OSError:  # there is none, or it ended now
        return set()


def _remove(folder: Path) -> None:
    """Remove both folders, first the one that the other names."""
    try:
        work = Path((folder / LINKS / ELSEWHERE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        work = None
    if work is not None and WORK.fullmatch(work.name):
        shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(folder / LINKS, ignore_errors=True)
