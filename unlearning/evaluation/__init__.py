"""What is measured of a model that should have forgotten, and the verdict."""
