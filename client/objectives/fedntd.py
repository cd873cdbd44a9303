"""FedNTD: imitate what the global model says of the classes that are not the true one, where forgetting happens.

Source: Lee et al., "Preservation of the Global Knowledge by Not-True Distillation in Federated Learning", NeurIPS 2022,
arXiv 2106.03097. The term is the non-target part of decoupled distillation (arXiv 2203.08679).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fedquit.client.objectives.base.imitation import Imitating
from fedquit.client.objectives.base.objective import Traits, objective
from fedquit.unlearning.distillation.distances import kl_each
from fedquit.unlearning.samples import Samples


def left_out_kl(
    student: Tensor, teacher: Tensor, temperature: float, student_without: Tensor, teacher_without: Tensor
) -> Tensor:
    """Return KL(teacher || student) of each sample [B], each softmax leaving classes out.

    Args:
        student: logits [B, C].
        teacher: logits [B, C].
        temperature: tau, by which both are divided.
        student_without: classes that the student's softmax leaves out, bool [B, C].
        teacher_without: those that the teacher's does, all of the student's among them. A sample of which nothing is
            left has no term: 0.

    >>> z, none = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[False, False, False]])
    >>> left_out_kl(z, z.flip(1), 1.0, none, none), left_out_kl(z, z.flip(1), 1.0, none, ~none)
    (tensor([1.1504]), tensor([0.]))
    """
    nothing = teacher_without.all(dim=1)
    teacher_without = teacher_without & ~nothing[:, None]
    student_without = student_without & ~nothing[:, None]
    goal = torch.log_softmax((teacher.detach() / temperature).masked_fill(teacher_without, -math.inf), dim=1)
    said = torch.log_softmax((student / temperature).masked_fill(student_without, -math.inf), dim=1)
    return kl_each(goal, said.masked_fill(student_without, 0.0)).masked_fill(nothing, 0.0)


def not_true_kl(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || student) of each sample [B] over the classes that are not its label.

    >>> z = torch.tensor([[9.0, 1.0, 2.0]])
    >>> not_true_kl(z, torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([0]))
    tensor([0.4621])
    """
    true = F.one_hot(labels, student.shape[1]).bool()
    return left_out_kl(student, teacher, temperature, true, true)


@objective
@dataclass(frozen=True, slots=True, kw_only=True)
class FedNTD(Imitating):
    """`CE + beta tau^2 KL(global || local)` over the classes that are not the true one, beta being `weight`.

    Attributes:
        weight: beta; 1.
        temperature: tau; 1.

    >>> FedNTD().tau_squared
    True
    """

    name: ClassVar[str] = "fedntd"
    traits: ClassVar[Traits] = Traits(
        "imitate the global model on the classes that are not the true one", "arXiv 2106.03097", gated=True
    )

    def each(self, student: Tensor, teacher: Tensor, labels: Tensor, samples: Samples) -> Tensor:  # noqa: ARG002
        """See `Imitating`."""
        return not_true_kl(student, teacher, labels, self.temperature)
