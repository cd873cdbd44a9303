"""The folder in which a backup is unpacked before it is moved to its place; what a killed restore left is cleared."""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import filelock

from fedquit.errors import FedquitError
from fedquit.files import explained
from fedquit.server.federation import FILE

LOCK, IN_DATABASE, NOTE = ".lock", "in-database.json", "UNFINISHED"
IS_UNFINISHED = """`fedquit restore` did not finish. Run the same command again, or remove this folder: it holds keys.
"""


@contextlib.contextmanager
def restore_folder(to: Path) -> Iterator[Path]:
    """Make the folder beside `to`, for its owner alone, and remove it afterwards.

    Only `IN_DATABASE`, which says what a killed restore has put into a database, is still there: as long as it is, it
    stays after a failure too, so that the next restore knows; unless the server is in its place, which ends a restore.

    Raises:
        FedquitError: another restore into `to` is at work, or it cannot be made, or is there and not ours alone.
    """
    staging = to.parent / f".{to.name}.restoring"
    with explained(staging):
        _make_own(staging)
        lock = filelock.FileLock(str(staging / LOCK), timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise FedquitError(f"another restore into {to} is at work; wait until it is done") from None
        (staging / NOTE).write_text(IS_UNFINISHED, encoding="utf-8")
    stays = False
    try:
        _remove_parts(staging)
        yield staging
    except BaseException:
        stays = (staging / IN_DATABASE).exists() and not is_in_place(to)
        raise
    finally:
        _remove_parts(staging)
        lock.release()
        if not stays:
            shutil.rmtree(staging, ignore_errors=True)


def is_in_place(to: Path) -> bool:
    """Say whether the server's folder, which was empty before, is in its place: nothing is undone after that.

    Then a restore only has to remove its own files.
    """
    return (to / FILE).exists()


def _remove_parts(staging: Path) -> None:
    """Remove what was unpacked."""
    for part in ("server", "authority"):
        shutil.rmtree(staging / part, ignore_errors=True)


def _make_own(staging: Path) -> None:
    """Make the folder, or take over what a killed restore left of it; nobody else may swap what is in it.

    Raises:
        FedquitError: what is there is no folder, another user's, or others may write into it.
    """
    with contextlib.suppress(FileExistsError):
        staging.mkdir(mode=0o700)
    found = staging.lstat()
    is_own = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
    if not stat.S_ISDIR(found.st_mode) or not is_own or found.st_mode & 0o022:
        raise FedquitError(f"{staging} is not a folder of yours alone: remove it, or restore into another folder")
    staging.chmod(0o700)
