"""A method of forgetting of your own: the last layer is drawn anew, on the device that asks.

    python docs/examples/own_method.py

Here it is registered where the script runs, so clients work in this process (`--workers 1`). A package of yours names
it in its entry points instead, and every command finds it: docs/methods.md.
"""

import sys
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from fedquit.unlearning.methods.base import Method, Traits, method
from fedquit.unlearning.samples import Samples


@method
@dataclass(frozen=True, slots=True)
class FreshHead(Method):
    """Draw the last layer anew, `scale` times as large as usual."""

    name: ClassVar[str] = "fresh-head"
    traits: ClassVar[Traits] = Traits(
        granularities=frozenset({"client"}),
        runs_at="device",
        server_keeps="nothing",
        needs_device=True,
        secure_aggregation=True,
        summary="the last layer is drawn anew",
    )

    scale: float = 1.0

    def forget(self, model: nn.Module, samples: Samples, *, seed: int) -> list[float]:
        """Change the model in place, drawing from `seed`; return the loss of each epoch, of which there is none."""
        weight, draw = list(model.parameters())[-2], torch.Generator().manual_seed(seed)
        weight.data.copy_(self.scale * torch.randn(weight.shape, generator=draw) / weight.shape[1] ** 0.5)
        return [0.0]


if __name__ == "__main__":
    from fedquit.cli import fedquit

    flags = ["--method", "fresh-head", "--method-settings", "scale=0.5", "--guard", "adopt", "--workers", "1"]
    fedquit(["simulate", *flags, "--rounds", "5", *sys.argv[1:]])
