"""`fedquit serve`: everything a deployed server consists of, kept alive as one unit."""
