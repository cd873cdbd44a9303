"""The driver of a simulation: a fixed list of phases, kept in the folder of the run."""
