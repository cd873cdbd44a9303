"""Where a ledger is: the folder of a server, a file, or a URL."""

import tomllib
from pathlib import Path

from fedquit.errors import InputError


def ledger_url(where: str) -> str:
    """Return the URL of the ledger of a server's folder, of a SQLite file, or `where` itself if it is a URL.

    Raises:
        InputError: there is nothing at `where`, or its server.toml cannot be read.

    >>> ledger_url("postgresql+psycopg://fedquit@db.example/ledger")
    'postgresql+psycopg://fedquit@db.example/ledger'
    """
    if "://" in where:
        return where
    path = Path(where).resolve()
    said = _of_server(path / "server.toml")
    if said:
        return said
    file = path / "ledger.db" if path.is_dir() else path
    if file.is_file():
        return f"sqlite:///{file}"
    raise InputError(f"there is no ledger at {where}; give a server's folder, a ledger.db or a URL")


def _of_server(file: Path) -> str:
    """Return what [server] ledger says in server.toml, or nothing."""
    if not file.is_file():
        return ""
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
        said = document.get("server", {}).get("ledger", "")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from None
    return str(said)
