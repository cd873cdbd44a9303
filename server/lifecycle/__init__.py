"""What a simulation and a deployment have in common: a round, a method's session, evaluation, models."""
