"""The folder in which a backup is unpacked before it is moved to its place; what a killed restore left is cleared."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from fedquit.errors import FedquitError
from fedquit.files import explained

LOCK, IN_DATABASE, NOTE = ".lock", "in-database.json", "UNFINISHED"
IS_UNFINISHED = """`fedquit restore` did not finish. Run the same command again, or remove this folder: it holds keys.
"""


@contextmanager
def restore_folder(to: Path) -> Iterator[Path]:
    """Make the folder beside `to`, for its owner alone, and remove it afterwards.

    Only `IN_DATABASE`, which says what a killed restore has put into a database, is still there.

    Raises:
        FedquitError: another restore into `to` is at work, or it cannot be made.
    """
    staging = to.parent / f".{to.name}.restoring"
    with explained(staging):
        staging.mkdir(mode=0o700, exist_ok=True)
        lock = filelock.FileLock(str(staging / LOCK), timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise FedquitError(f"another restore into {to} is at work; wait until it is done") from None
        (staging / NOTE).write_text(IS_UNFINISHED, encoding="utf-8")
    try:
        for left in ("server", "authority"):
            shutil.rmtree(staging / left, ignore_errors=True)
        yield staging
    finally:
        lock.release()
        shutil.rmtree(staging, ignore_errors=True)
