"""Where a ledger is: the folder of a server, a file, or a URL."""

from pathlib import Path

from fedquit.errors import InputError


def find_ledger(where: str) -> str:
    """Return the URL of the ledger of a server's folder, of a SQLite file, or `where` itself if it is a URL.

    Raises:
        InputError: there is nothing at `where`, or its server.toml cannot be read.

    >>> find_ledger("postgresql+psycopg://fedquit@db.example/ledger")
    'postgresql+psycopg://fedquit@db.example/ledger'
    """
    if "://" in where:
        return where
    path = Path(where).resolve()
    if (path / "server.toml").is_file():
        from fedquit.server.federation import Federation  # takes its time: it knows the settings of training

        return Federation.read(path).ledger_url(path)
    file = path / "ledger.db" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"there is no ledger at {where}; give a server's folder, a ledger.db or a URL")
    return f"sqlite:///{file}"
