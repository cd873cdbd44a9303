"""What a run cost: its cost log read, compared with retraining, priced, exported and drawn."""
