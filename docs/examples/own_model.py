"""A model of your own: a function that builds it for a data set's shape and classes, named as `own_model:build`.

    python docs/examples/own_model.py                          or, in this folder:
    fedquit simulate --model own_model:build

The same name goes into `[training]` of a deployment's server.toml, where each device has the module installed.
"""

import sys

from torch import nn


def build(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return an untrained model from inputs [B, *input_shape] to logits [B, num_classes], its weights drawn anew."""
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 8, kernel_size=3, padding=1),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(8 * height * width, num_classes),
    )


if __name__ == "__main__":
    from fedquit.cli import fedquit

    fedquit(["simulate", "--model", "own_model:build", "--rounds", "5", *sys.argv[1:]])
