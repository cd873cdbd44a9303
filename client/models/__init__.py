"""Architectures by name, and models as files."""
