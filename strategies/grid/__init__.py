"""Flower's grid, wrapped: who the nodes are, what is compressed, what is counted."""
