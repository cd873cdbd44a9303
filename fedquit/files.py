"""Files that are whole or not there: written next to their place, flushed to disk, then renamed into it.

Also reads the JSON and TOML files that users give, with errors of one line.
"""

import contextlib
import errno
import json
import os
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedquit.errors import FedquitError, FullDiskError, InputError

FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of the file system into one line that names `path` and the way out."""
    try:
        yield
    except OSError as error:
        what = f"cannot write {path}: {error.strerror or error}"
        if error.errno in FULL:
            raise FullDiskError(what) from error
        raise FedquitError(f"{what}; choose another folder") from error


def temporary_folder() -> TemporaryDirectory[str]:
    """Make a folder for a while; `with` gives its path and removes it at the end.

    Raises:
        FedquitError: it cannot be made.

    >>> with temporary_folder() as folder:
    ...     Path(folder).is_dir()
    True
    """
    try:
        return TemporaryDirectory(prefix="fedquit-", ignore_cleanup_errors=True)
    except OSError as error:
        where = os.environ.get("TMPDIR") or tempfile.tempdir or "/tmp"  # noqa: S108 - where it was tried
        what = f"cannot make a temporary folder in {where}: {error.strerror or error}"
        way_out = "set TMPDIR to a folder with more room, or to one that you may write into"
        raise FedquitError(f"{what}; {way_out}") from error


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write `content` to `path`, so that a reader or a crash sees the old file or the new one.

    Args:
        path: the file.
        content: what it is to hold.
        mode: who may read and write it, from its first moment; the process's umask takes from that.

    Raises:
        FedquitError: it could not be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with explained(path):
        try:
            temporary.unlink(missing_ok=True)  # a file that is there already would keep its own mode
            with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename durable, where the platform lets a folder be opened."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document whole."""
    write_whole(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path, what: str) -> Any:
    """Return what a JSON file that a person gave holds.

    Args:
        path: the file.
        what: what it should hold, for errors.

    Raises:
        InputError: it cannot be read, or is not JSON.

    >>> read_json(Path("nowhere.json"), "the samples to forget")
    Traceback (most recent call last):
    fedquit.errors.InputError: cannot read the samples to forget from nowhere.json (No such file or directory)
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {what} from {path} ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error})") from error


def load_settings_file(path: Path) -> dict[str, Any]:
    """Return the keys of a TOML file of settings, unchecked: processes that only wait need not load the checks.

    Raises:
        InputError: the file is not there or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no such config file: {path}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; give a TOML file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from None
