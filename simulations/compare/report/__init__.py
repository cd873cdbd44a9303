"""The report of a comparison: tables, figures, and the commands that repeat it."""
