"""`fedquit audit`: any model held against retrained ones; shadow models."""
