"""How fast simulations are, beside plain PyTorch processes, Flower on Ray, and what the machine can do at all."""
