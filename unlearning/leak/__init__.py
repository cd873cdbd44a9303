"""What a request to be forgotten reveals to those who see the models before and after it: pure PyTorch, no Flower."""
