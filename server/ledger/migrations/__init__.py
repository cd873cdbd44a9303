"""Migrations of the ledger's tables; `fedquit.server.ledger.migrate` runs them."""
