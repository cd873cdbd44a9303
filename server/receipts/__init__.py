"""Receipts: what the server states of a request that is done, signed."""
