"""The audit log of the ledger: a hash chain over all that happened, and its seal."""
