"""Cross-entropy and nothing else: what the others are measured by (McMahan et al. 2017, arXiv 1602.05629)."""

from dataclasses import dataclass
from typing import ClassVar

from fedquit.client.objectives.base.objective import Objective, Traits, objective


@objective
@dataclass(frozen=True, slots=True)
class FedAvg(Objective):
    """Minimise the cross-entropy on the device's own samples.

    >>> FedAvg.traits.keeps
    'nothing'
    """

    name: ClassVar[str] = "fedavg"
    traits: ClassVar[Traits] = Traits("cross-entropy on the device's own samples", "arXiv 1602.05629")
