"""What writing the cost log takes: memory, and a share of the time of rounds."""
