"""A device on its own disk: its data, its memory, its record, and `fedquit join`."""
