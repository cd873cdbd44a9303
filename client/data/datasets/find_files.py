"""Where the files of a named dataset may be: the data root, a distribution's folder, or a download the user allowed."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fedquit.errors import InputError


def default_data_root() -> Path:
    """Return the folder for datasets: `$FEDQUIT_DATA`, else `~/.cache/fedquit`."""
    given = os.environ.get("FEDQUIT_DATA")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "fedquit"


def find_or_download(
    name: str,
    folders: Sequence[Path],
    find: Callable[[Path], list[Path] | None],
    fetch: Callable[[], object] | None,
    *,
    package: str | None = None,
) -> list[Path]:
    """Return the dataset's files from the first folder that has them all.

    Args:
        name: The dataset.
        folders: Where to look, in this order.
        find: Gives the files in one folder, or None if any is missing.
        fetch: Downloads into one of `folders`; None where the user did not allow it.
        package: Debian's package of the dataset, if there is one.

    Raises:
        InputError: If they are nowhere, or the download fails; it says where it looked and the ways out.
    """
    found = _first(folders, find)
    if found is None and fetch is not None:
        _download(name, fetch)
        found = _first(folders, find)
    if found is None:
        ways = [f"install Debian's {package}"] if package else []
        ways += ["give --data-root", "or allow --download"]
        raise InputError(f"no {name} in {', '.join(map(str, folders))}; {', '.join(ways)}")
    return found


def _first(folders: Sequence[Path], find: Callable[[Path], list[Path] | None]) -> list[Path] | None:
    return next((files for files in map(find, folders) if files), None)


def _download(name: str, fetch: Callable[[], object]) -> None:
    """Run `fetch`; what it prints goes to stderr, since stdout may be a JSON document."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            fetch()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"cannot download {name} ({reason}); give --data-root with its files") from error
