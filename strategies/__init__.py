"""Flower strategies that train, forget and recover, with the account of what they cost."""
