"""Where the ledger is stored: SQLite or PostgreSQL, its tables, transactions and migrations."""
