"""A server's folder in one file, and back: what a federation needs to go on elsewhere, and nothing else."""
