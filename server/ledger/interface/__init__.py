"""What can be asked of an open ledger and written into it, one module for each kind of row."""
