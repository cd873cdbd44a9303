"""One round of training or recovery: its plan, its messages, and its outcome."""
