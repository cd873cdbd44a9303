"""Rules whose result is the weighted mean."""

from dataclasses import dataclass
from typing import Any, ClassVar

from flwr.serverapp import strategy as flower

from fedquit.strategies.rounds.aggregate import Aggregate, Mean
from fedquit.strategies.rules.flower import FlowerRule
from fedquit.strategies.rules.rule import Opening, Rule, Traits
from fedquit.unlearning.setting_checks import check_at_least_zero


@dataclass(frozen=True, slots=True)
class FedAvg(FlowerRule):
    """The mean weighted by numbers of samples; Flower's own is not asked, as its result depends on who answers first.

    >>> FedAvg().needs()
    1
    """

    name: ClassVar[str] = "fedavg"
    flowers: ClassVar[Any] = flower.FedAvg
    traits: ClassVar[Traits] = Traits("the mean weighted by numbers of samples, exact", "arXiv 1602.05629")

    def begin(self, opening: Opening) -> Aggregate:  # noqa: ARG002 - the interface
        """See `Rule`."""
        return Mean()


@dataclass(frozen=True, slots=True)
class FedProx(FlowerRule):
    """The same, and devices stay near the global model: cross-entropy plus mu/2 ||w - w_g||^2.

    Attributes:
        proximal_mu: strength of the pull; Flower's default, 0, is fedavg, so it must be given.

    >>> FedProx(proximal_mu=0.01).proximal_mu
    0.01
    """

    name: ClassVar[str] = "fedprox"
    flowers: ClassVar[Any] = flower.FedProx
    traits: ClassVar[Traits] = Traits("fedavg, and devices are pulled to the global model", "arXiv 1812.06127")

    proximal_mu: float

    def __post_init__(self) -> None:
        check_at_least_zero("proximal-mu", self.proximal_mu)

    def begin(self, opening: Opening) -> Aggregate:
        """See `Rule`: Flower sets the devices' config, and leaves the mean as it is."""
        return Mean(self.client_config(opening))


def is_mean(rule: Rule) -> bool:
    """Say whether a rule's result is the mean of what clients sent.

    >>> is_mean(FedAvg())
    True
    """
    return isinstance(rule, FedAvg | FedProx)
