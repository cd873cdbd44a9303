"""How a device trains and evaluates a model: SGD on any loss, and what the settings name."""

from fedquit.client.training.sgd import Batch, Loss

__all__ = ["Batch", "Loss"]
