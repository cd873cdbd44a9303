"""The cost log: the size of every message, a row each."""
