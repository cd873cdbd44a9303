"""The numbers of a comparison: of each run, and over targets and seeds."""
