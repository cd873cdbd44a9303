"""Back up a server's folder into one file, and restore it: what a federation needs to continue elsewhere."""
