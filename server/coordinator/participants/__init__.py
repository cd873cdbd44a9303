"""Who takes part: who is connected, who is left out, whose replies are not used."""
