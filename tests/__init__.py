"""Tests, the rigs that they share, and benchmarks."""
