"""Rigs: a rehearsed deployment, real processes, kills, sabotage and fuzzing."""
