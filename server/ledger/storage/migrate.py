"""Bring a ledger's tables to what this version needs."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from fedquit.errors import FedquitError
from fedquit.server.ledger.storage.database import Database, alone


def migrate(database: Database) -> None:
    """Run the migrations that this ledger lacks, all in one transaction.

    Raises:
        FedquitError: a newer fedquit made it.
    """
    with database.read() as connection:
        if _behind(connection, database) is None:
            return
    with database.write() as connection:
        alone(connection)
        if _behind(connection, database) is not None:  # another process may have been first
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def check_revision(database: Database) -> None:
    """Refuse a ledger whose tables are not those of this version.

    Raises:
        FedquitError: it is older or newer, or no ledger.
    """
    with database.read() as connection:
        behind = _behind(connection, database)
    if behind == "":
        raise FedquitError(f"{database.shown} holds no ledger yet; 'fedquit provision' makes one")
    if behind is not None:
        raise FedquitError(f"the ledger {database.shown} is of revision {behind}; open it with 'fedquit serve' once")


def _behind(connection: Connection, database: Database) -> str | None:
    """Return the ledger's revision ("" for none) if it is not the newest, None if it is."""
    newest, known = _revisions()
    revision = MigrationContext.configure(connection).get_current_revision() or ""
    if revision and revision not in known:
        raise FedquitError(
            f"the ledger {database.shown} was made by a newer fedquit (revision {revision}); install that version"
        )
    return None if revision == newest else revision


@cache
def _revisions() -> tuple[str | None, frozenset[str]]:
    """Return the newest revision and all of them; read once, as the page opens the ledger for every call."""
    scripts = ScriptDirectory.from_config(_config())
    return scripts.get_current_head(), frozenset(script.revision for script in scripts.walk_revisions())


def _config() -> Config:
    """Say where the migrations are; they ship inside the package."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
