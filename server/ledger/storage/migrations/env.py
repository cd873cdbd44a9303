"""Alembic's entry: migrate on the connection, and in the transaction, that the caller opened."""

from alembic import context

from fedquit.server.ledger.storage.tables import metadata


def migrate() -> None:
    """Run what is missing."""
    context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
    context.run_migrations()


if __name__ == "env_py":  # the name under which alembic loads this file
    migrate()
