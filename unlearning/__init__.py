"""Methods that make a model forget, and the measures that judge them. Pure PyTorch: knows nothing of Flower."""
