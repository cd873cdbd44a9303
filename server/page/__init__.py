"""The operator's page: what the federation is at, and how far each request is. It only reads the ledger."""
