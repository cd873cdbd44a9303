"""Rules that take the mean for a gradient and make an optimiser's step of it, at the server.

Sources: Hsu et al. 2019, arXiv 1909.06335 (momentum); Reddi et al., "Adaptive Federated Optimization", ICLR 2021, arXiv
2003.00295 (Adam, Yogi, Adagrad). The steps are Flower's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from flwr.serverapp import strategy as flower

from fedquit.strategies.rounds.aggregate import Aggregate
from fedquit.strategies.rules.flower import FlowerRule, Stepped
from fedquit.strategies.rules.rule import Opening, Traits
from fedquit.unlearning.setting_checks import check_fraction, check_positive
from fedquit.unlearning.tensors.convert import Arrays


class ServerOptimiser(FlowerRule):
    """What these rules have in common: their fields are the settings of Flower's class."""

    __slots__ = ()

    def begin(self, opening: Opening) -> Aggregate:
        """See `Rule`."""
        return Stepped(self, opening)


@dataclass(frozen=True, slots=True)
class FedAvgM(ServerOptimiser):
    """SGD with momentum at the server.

    Attributes:
        server_momentum: Flower's default, 0, is fedavg, so it must be given; the paper's is 0.9.
        server_learning_rate: of the server's step.

    >>> FedAvgM(server_momentum=0.9).server_learning_rate
    1.0
    """

    name: ClassVar[str] = "fedavgm"
    flowers: ClassVar[Any] = flower.FedAvgM
    traits: ClassVar[Traits] = Traits("SGD with momentum at the server", "arXiv 1909.06335", "momentum")

    server_momentum: float
    server_learning_rate: float = 1.0

    def __post_init__(self) -> None:
        check_fraction("server-momentum", self.server_momentum)
        check_positive("server-learning-rate", self.server_learning_rate)

    def restore(self, strategy: Any, state: Arrays, names: Sequence[str]) -> None:
        """See `FlowerRule`."""
        strategy.momentum_vector = [state[f"momentum/{name}"] for name in names]

    def to_keep(self, strategy: Any, names: Sequence[str]) -> Arrays | None:
        """See `FlowerRule`."""
        if strategy.momentum_vector is None:
            return None
        return {f"momentum/{name}": array for name, array in zip(names, strategy.momentum_vector, strict=True)}


class Adaptive(ServerOptimiser):
    """Steps divided by how large they were: m_t is the mean step, v_t the size of its square, of each parameter."""

    __slots__ = ()

    def restore(self, strategy: Any, state: Arrays, names: Sequence[str]) -> None:
        """See `FlowerRule`."""
        strategy.m_t = {name: state[f"m/{name}"] for name in names}
        strategy.v_t = {name: state[f"v/{name}"] for name in names}

    def to_keep(self, strategy: Any, names: Sequence[str]) -> Arrays | None:
        """See `FlowerRule`."""
        return {
            f"{letter}/{name}": np.asarray(moment[name])
            for letter, moment in (("m", strategy.m_t), ("v", strategy.v_t))
            for name in names
        }


@dataclass(frozen=True, slots=True)
class FedAdam(Adaptive):
    """Adam at the server.

    Attributes:
        eta: of the server's step; `beta_1`, `beta_2`: decay of the two moments.
        tau: added to the root of v_t; the larger, the nearer to plain SGD.

    >>> FedAdam().tau
    0.001
    """

    name: ClassVar[str] = "fedadam"
    flowers: ClassVar[Any] = flower.FedAdam
    traits: ClassVar[Traits] = Traits("Adam at the server", "arXiv 2003.00295", "two moments")

    eta: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 0.001

    def __post_init__(self) -> None:
        check_moments(self.eta, self.tau, self.beta_1, self.beta_2)


@dataclass(frozen=True, slots=True)
class FedYogi(Adaptive):
    """Yogi at the server: as Adam, and v_t grows and shrinks by steps of its own.

    Attributes:
        eta: of the server's step; `beta_1`, `beta_2`: decay of the two moments.
        tau: added to the root of v_t; the larger, the nearer to plain SGD.

    >>> FedYogi().eta
    0.01
    """

    name: ClassVar[str] = "fedyogi"
    flowers: ClassVar[Any] = flower.FedYogi
    traits: ClassVar[Traits] = Traits("Yogi at the server", "arXiv 2003.00295", "two moments")

    eta: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 0.001

    def __post_init__(self) -> None:
        check_moments(self.eta, self.tau, self.beta_1, self.beta_2)


@dataclass(frozen=True, slots=True)
class FedAdagrad(Adaptive):
    """Adagrad at the server: v_t is the sum of all squares.

    Attributes:
        eta: of the server's step.
        tau: added to the root of v_t; the larger, the nearer to plain SGD.

    >>> FedAdagrad().eta
    0.1
    """

    name: ClassVar[str] = "fedadagrad"
    flowers: ClassVar[Any] = flower.FedAdagrad
    traits: ClassVar[Traits] = Traits("Adagrad at the server", "arXiv 2003.00295", "two moments")

    eta: float = 0.1
    tau: float = 0.001

    def __post_init__(self) -> None:
        check_moments(self.eta, self.tau)


def check_moments(eta: float, tau: float, *betas: float) -> None:
    """Refuse settings that make no step, or divide by zero.

    >>> check_moments(0.1, 0.001, 0.9)
    """
    check_positive("eta", eta)
    check_positive("tau", tau)
    for number, beta in enumerate(betas, 1):
        check_fraction(f"beta-{number}", beta)
