"""Receipts: signed statements of what became of a request, which anyone can check without a server."""

from fedquit.client.receipts.envelope import sealed, unsealed
from fedquit.client.receipts.statement import LIMITS, PREDICATE, Receipt, read_receipt, statement

__all__ = ["LIMITS", "PREDICATE", "Receipt", "read_receipt", "sealed", "statement", "unsealed"]
