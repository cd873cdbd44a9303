"""MOON: features near those of the global model, and away from those of the device's previous model.

Source: Li et al., "Model-Contrastive Federated Learning", CVPR 2021, arXiv 2103.16257. Features are what the model's
last linear layer takes; the paper puts a projection head of two layers before it, which is a matter of the model.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.client.objectives.base.frozen_teacher import Teacher, head_of, logits_and_features
from fedquit.client.objectives.base.imitation import Gated, filled, mean_over
from fedquit.client.objectives.base.objective import LocalRound, Traits, objective
from fedquit.client.training.sgd import Batch, Loss
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.setting_checks import check_at_least_zero, check_positive


def contrast(features: Tensor, near: Tensor, far: Tensor, temperature: float = 0.5) -> Tensor:
    """Return `-log(e^(cos(h, near) / tau) / (e^(cos(h, near) / tau) + e^(cos(h, far) / tau)))` of each sample [B].

    >>> import torch
    >>> h = torch.tensor([[1.0, 2.0]])
    >>> contrast(h, near=h, far=h), contrast(h, near=h, far=-h)  # ln 2: no difference yet
    (tensor([0.6931]), tensor([0.0181]))
    """
    wrong = F.cosine_similarity(features, far.detach(), dim=1) - F.cosine_similarity(features, near.detach(), dim=1)
    return F.softplus(wrong / temperature)


@objective
@dataclass(frozen=True, slots=True, kw_only=True)
class MOON(Gated):
    """`CE + mu CE([cos(h, h_global), cos(h, h_previous)] / tau, 0)`; a device's first round has no previous model.

    There h_global stands for it: the term is ln 2 and has no gradient.

    Attributes:
        mu: weight of the contrast; 1, the paper tunes it in .1 to 10. 0 is fedavg.
        temperature: tau; .5.

    >>> MOON().temperature
    0.5
    """

    name: ClassVar[str] = "moon"
    traits: ClassVar[Traits] = Traits(
        "features near the global model's and away from one's own of the round before",
        "arXiv 2103.16257",
        keeps="previous model",
        gated=True,
    )

    mu: float = 1.0
    temperature: float = 0.5

    def __post_init__(self) -> None:
        Gated.__post_init__(self)
        check_at_least_zero("mu", self.mu)
        check_positive("temperature", self.temperature)

    def check(self, model: nn.Module) -> None:
        """See `Objective`."""
        head_of(model)

    def loss(self, model: nn.Module, samples: Samples, local_round: LocalRound) -> Loss:
        """See `Objective`."""
        asked = Teacher(model, samples, self.teacher_mode, logits_and_features)
        before = None
        if local_round.state is not None:
            before = Teacher(filled(model, local_round.state), samples, self.teacher_mode, logits_and_features)
        reference = self.reference(model, samples, local_round)

        def contrasting(student: nn.Module, batch: Batch) -> Tensor:
            (logits, features), (goal, near) = logits_and_features(student, batch.inputs), asked(batch)
            if before is None:  # the two gradients cancel, up to rounding
                each = contrast(features.detach(), near, near, self.temperature)
            else:
                each = contrast(features, near, before(batch)[1], self.temperature)
            term = mean_over(each, self.weights(logits, goal, batch, reference))
            return F.cross_entropy(logits, batch.labels) + self.mu * term

        return contrasting
