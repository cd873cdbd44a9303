"""Asking to be forgotten: the ask as exact bytes, its signature, and the client of the forget service."""
