"""`fedquit audit`: compare any model with retrained ones; shadow models."""
