"""What a run cost: its account read, compared with retraining, priced, exported and drawn."""
