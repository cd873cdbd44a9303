"""Data of your own: a function that returns arrays, named as `own_data:load`.

    python docs/examples/own_data.py                           or, in this folder:
    fedquit simulate --dataset own_data:load --clients 6 --forget 1

In a deployment each device names its own data instead: docs/device.md.
"""

import sys

import numpy as np
from numpy.typing import NDArray

Data = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]


def load() -> Data:
    """Return (x_train, y_train, x_test, y_test): four clouds of points around four corners, as 1x4x4 images."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, size=1000)
    centres = draw.normal(size=(4, 1, 4, 4))
    inputs = (centres[labels] + 0.8 * draw.normal(size=(1000, 1, 4, 4))).astype(np.float32)
    return inputs[:800], labels[:800], inputs[800:], labels[800:]


if __name__ == "__main__":
    from fedquit.cli import fedquit

    flags = ["--dataset", "own_data:load", "--model", "mlp", "--clients", "6", "--rounds", "5", "--forget", "1"]
    fedquit(["simulate", *flags, *sys.argv[1:]])
