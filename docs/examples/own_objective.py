"""An objective of your own: devices minimise cross-entropy with smoothed labels.

    python docs/examples/own_objective.py

Here it is registered where the script runs, so clients work in this process (`--workers 1`). A package of yours names
it in its entry points instead, and every command finds it: docs/objectives.md.
"""

import sys
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.client.objectives import LocalRound, Objective, Traits
from fedquit.client.objectives.base.objective import objective
from fedquit.client.training import Batch, Loss
from fedquit.unlearning.samples import Samples


@objective
@dataclass(frozen=True, slots=True)
class Smoothed(Objective):
    """Cross-entropy in which `by` of each label is spread over all classes."""

    name: ClassVar[str] = "smoothed"
    traits: ClassVar[Traits] = Traits("cross-entropy with smoothed labels")

    by: float = 0.1

    def loss(self, model: nn.Module, samples: Samples, local_round: LocalRound) -> Loss:
        """Return what one round minimises; it may look at the model that came and at all samples first."""

        def smoothed(student: nn.Module, batch: Batch) -> Tensor:
            return F.cross_entropy(student(batch.inputs), batch.labels, label_smoothing=self.by)

        return smoothed


if __name__ == "__main__":
    from fedquit.cli import fedquit

    flags = ["--objective", "smoothed", "--objective-settings", "by=0.2", "--workers", "1"]
    fedquit(["simulate", *flags, "--rounds", "5", *sys.argv[1:]])
