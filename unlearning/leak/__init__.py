"""What a request to be forgotten tells those who see the models around it: pure PyTorch, knows nothing of Flower."""
