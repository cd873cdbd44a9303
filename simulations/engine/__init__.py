"""Engines: what carries messages between the ServerApp and the ClientApps of a simulation."""
