"""The messages of a round: train, exercise, evaluate; and what makes one model of the replies."""
