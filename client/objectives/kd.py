"""Plain distillation from the global model: keep what it knew while learning one's own samples.

Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531. The teacher is the global one.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedquit.client.objectives.base.imitation import Imitating
from fedquit.client.objectives.base.objective import Traits, objective
from fedquit.unlearning.distillation.distances import kl_each
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.setting_checks import check_share


def soft_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(softmax(teacher / tau) || softmax(student / tau)) of each sample [B], from logits [B, C].

    >>> soft_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 3.0]]).log1p())
    tensor([0.1927])
    """
    goal = torch.log_softmax(teacher.detach() / temperature, dim=1)
    return kl_each(goal, torch.log_softmax(student / temperature, dim=1))


@objective
@dataclass(frozen=True, slots=True, kw_only=True)
class KD(Imitating):
    """`(1 - g) CE + g KL(global || local)`, g being `weight`.

    Attributes:
        weight: g, from 0 (fedavg) to 1 (imitation alone); .2.
        tau_squared: off.

    >>> KD(weight=0.5).total(torch.tensor(2.0), torch.tensor(4.0))
    tensor(3.)
    """

    name: ClassVar[str] = "kd"
    traits: ClassVar[Traits] = Traits(
        "imitate the global model while learning one's own samples", "arXiv 1503.02531", gated=True
    )

    weight: float = 0.2
    tau_squared: bool = False

    def __post_init__(self) -> None:
        Imitating.__post_init__(self)
        check_share("weight", self.weight)

    def each(self, student: Tensor, teacher: Tensor, labels: Tensor, samples: Samples) -> Tensor:  # noqa: ARG002
        """See `Imitating`."""
        return soft_kl(student, teacher, self.temperature)

    def total(self, ce: Tensor, term: Tensor) -> Tensor:
        """See `Imitating`."""
        return (1 - self.weight) * ce + self.weight * term
