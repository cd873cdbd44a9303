"""The server's messages at a device: their records, the work of each, and compression and clipping on the way."""
