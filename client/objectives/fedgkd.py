"""FedGKD: the teacher is the mean of the last few global models, steadier than the last one.

Source: Yao et al., "FedGKD: Towards Heterogeneous Federated Learning via Global Knowledge Distillation",
arXiv 2107.00051. The server sends the mean along with the model: twice the bytes down, unless it is of one model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedquit.client.objectives.base.imitation import Imitating, filled
from fedquit.client.objectives.base.objective import LocalRound, Traits, objective
from fedquit.client.objectives.kd import soft_kl
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.setting_checks import check_count
from fedquit.unlearning.tensors.arithmetic import StateMean
from fedquit.unlearning.tensors.convert import StateDict

ITSELF = "itself"


def mean_of(models: Sequence[StateDict]) -> dict[str, Tensor]:
    """Return the mean of models, each counting alike.

    >>> mean_of([{"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}])
    {'w': tensor([1.5000])}
    """
    mean = StateMean()
    for model in models:
        mean.add(model, 1)
    return mean.result()


@objective
@dataclass(frozen=True, slots=True, kw_only=True)
class FedGKD(Imitating):
    """`CE + weight tau^2 KL(mean of the last M global models || local)`; in a phase's first round CE alone.

    A global model is one that a round of this phase made, so in the first round there is none, and the model before
    it, untrained or just unlearned, is nobody's teacher.

    Attributes:
        weight: .1.
        models: M, how many global models are averaged, the present one included; 5.

    >>> FedGKD(models=1).needs().down
    'model'
    """

    name: ClassVar[str] = "fedgkd"
    traits: ClassVar[Traits] = Traits(
        "imitate the mean of the last global models", "arXiv 2107.00051", down="two models", gated=True
    )

    weight: float = 0.1
    models: int = 5

    def __post_init__(self) -> None:
        Imitating.__post_init__(self)
        check_count("models", self.models)

    def needs(self) -> Traits:
        """See `Objective`: one model is no more than what travels anyway."""
        traits = Imitating.needs(self)
        return replace(traits, down="model") if self.models == 1 else traits

    def broadcast(self, current: StateDict, state: StateDict | None) -> tuple[StateDict | None, StateDict | None]:
        """See `Objective`: the mean goes down, the last M - 1 models are kept, as `0/name`, `1/name`, ...

        A device must know that a phase's first round is over: in the first the model is sent alone, and where the mean
        is the present model itself, one empty tensor stands for it.
        """
        if state is None:
            return None, {}
        models = [*_unpacked(state), current][-self.models :]
        extra = mean_of(models) if len(models) > 1 else {ITSELF: torch.empty(0)}
        return extra, _packed(models[max(0, len(models) - self.models + 1) :])

    def teacher(self, model: nn.Module, local_round: LocalRound) -> nn.Module | None:
        """See `Imitating`."""
        if local_round.extra is None:
            return None
        return model if ITSELF in local_round.extra else filled(model, local_round.extra)

    def each(self, student: Tensor, teacher: Tensor, labels: Tensor, samples: Samples) -> Tensor:  # noqa: ARG002
        """See `Imitating`."""
        return soft_kl(student, teacher, self.temperature)


def _packed(models: Sequence[StateDict]) -> dict[str, Tensor]:
    return {f"{i}/{name}": value for i, model in enumerate(models) for name, value in model.items()}


def _unpacked(state: StateDict) -> list[dict[str, Tensor]]:
    models: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        number, _, name = key.partition("/")
        models.setdefault(number, {})[name] = value
    return [models[number] for number in sorted(models, key=int)]
