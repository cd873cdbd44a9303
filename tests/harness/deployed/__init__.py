"""Rigs that break deployments of real processes: kills at each step of a request, and seeded faults of every kind."""
