"""One round of training or recovery: what it is to be, its messages, and what came of it."""
