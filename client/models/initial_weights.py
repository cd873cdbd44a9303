"""Initial weights other than a layer's own.

PyTorch's are uniform within a bound set by the number of inputs, biases included.

Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (AISTATS 2010), eq. 16.
"""

from torch import nn
from torch.nn.modules.conv import _ConvNd

from fedquit.errors import InputError

DRAWN = (nn.Linear, nn.Bilinear, _ConvNd)


def draw_glorot(model: nn.Module) -> None:
    """Re-initialise weights as Keras does: uniform within sqrt(6 / (inputs + outputs)) of zero; biases become zero.

    Linear layers and convolutions are drawn, from torch's global generator; other layers keep what they have.

    Raises:
        InputError: a layer computes its weights from others, or there is no such layer.

    >>> line = nn.Linear(2, 4)
    >>> draw_glorot(line)
    >>> bool((line.weight.abs() <= 1).all()), line.bias.tolist()
    (True, [0.0, 0.0, 0.0, 0.0])
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, DRAWN)}
    if not layers:
        raise InputError("init: the model has no linear layer and no convolution for 'glorot'; use 'default'")
    for name, layer in layers.items():
        if not isinstance(layer._parameters.get("weight"), nn.Parameter):
            raise InputError(f"init: layer '{name}' computes its weights, so 'glorot' cannot draw them; use 'default'")
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
