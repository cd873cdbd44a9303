"""Benchmarks: run each with `python -m tests.benchmarks.NAME`."""
