"""Migrations of the ledger's tables; `fedquit.server.ledger.storage.migrate` runs them."""
