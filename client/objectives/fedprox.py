"""A pull back to the global model, so that local models stay near one another.

Source: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, arXiv 1812.06127.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedquit.client.objectives.base.objective import LocalRound, Objective, Traits, objective
from fedquit.client.training.sgd import Batch, Loss, cross_entropy
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.setting_checks import check_at_least_zero


def proximal(parameters: Iterable[Tensor], anchors: Iterable[Tensor], mu: float) -> Tensor:
    """Return `mu / 2 ||w - w_g||^2` over all parameters together.

    >>> proximal([torch.tensor([3.0, 0.0])], [torch.tensor([1.0, 0.0])], mu=0.5)
    tensor(1.)
    """
    squares = [(parameter - anchor).square().sum() for parameter, anchor in zip(parameters, anchors, strict=True)]
    return 0.5 * mu * torch.stack(squares).sum()


@objective
@dataclass(frozen=True, slots=True)
class FedProx(Objective):
    """Cross-entropy plus `mu / 2 ||w - w_g||^2`, w_g being the global model's parameters.

    Attributes:
        mu: strength of the pull; the paper tunes it in .001 to 1 for each task. 0 is fedavg.

    >>> FedProx().mu
    0.01
    """

    name: ClassVar[str] = "fedprox"
    traits: ClassVar[Traits] = Traits("a pull back to the global model's parameters", "arXiv 1812.06127")

    mu: float = 0.01

    def __post_init__(self) -> None:
        check_at_least_zero("mu", self.mu)

    def loss(self, model: nn.Module, samples: Samples, local_round: LocalRound) -> Loss:  # noqa: ARG002 - the interface
        """See `Objective`."""
        anchors = [parameter.detach().clone() for parameter in _moving(model)]

        def pulled(student: nn.Module, batch: Batch) -> Tensor:
            return cross_entropy(student, batch) + proximal(_moving(student), anchors, self.mu)

        return pulled


def _moving(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
