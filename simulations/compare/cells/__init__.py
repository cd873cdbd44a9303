"""The runs of a comparison: planned, carried out, continued after a kill."""
