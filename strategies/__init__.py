"""Flower strategies that train, forget and recover, with a log of what they cost."""
