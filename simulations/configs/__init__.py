"""The configs that ship with fedquit, each under a name."""
