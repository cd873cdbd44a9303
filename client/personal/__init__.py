"""Personalised models: one for each client, in simulations."""
