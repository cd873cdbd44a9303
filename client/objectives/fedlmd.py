"""FedLMD: as FedNTD, and the teacher is silent about the classes that this device has plenty of.

Source: Lu et al., "Federated Learning with Label-Masking Distillation", ACM Multimedia 2023, arXiv 2409.13136.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fedquit.client.objectives.base.imitation import Imitating
from fedquit.client.objectives.base.objective import Traits, objective
from fedquit.client.objectives.fedntd import left_out_kl
from fedquit.unlearning.samples import Samples


def majority(labels: Tensor, classes: int) -> Tensor:
    """Return which classes have more samples than the mean over all classes, bool [C].

    >>> majority(torch.tensor([0, 0, 0, 2]), classes=3)
    tensor([ True, False, False])
    """
    counts = torch.bincount(labels, minlength=classes)
    return counts * classes > counts.sum()


def label_masked_kl(
    student: Tensor, teacher: Tensor, labels: Tensor, plenty: Tensor, temperature: float = 1.0
) -> Tensor:
    """Return KL(teacher || student) of each sample [B]: both leave out its label, the teacher also `plenty` [C].

    >>> z, nobody = torch.tensor([[9.0, 1.0, 2.0]]), torch.tensor([False, False, False])
    >>> label_masked_kl(z, torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([0]), nobody)  # as FedNTD
    tensor([0.4621])
    """
    true = F.one_hot(labels, student.shape[1]).bool()
    return left_out_kl(student, teacher, temperature, true, true | plenty)


@objective
@dataclass(frozen=True, slots=True, kw_only=True)
class FedLMD(Imitating):
    """`CE + beta tau^2 KL(global || local)`; the teacher leaves out the true class and the device's majority classes.

    The counts are of the samples that the device trains on in this round, so what was forgotten no longer counts.

    Attributes:
        weight: beta; 1.
        temperature: tau; 1.

    >>> FedLMD().weight
    1.0
    """

    name: ClassVar[str] = "fedlmd"
    traits: ClassVar[Traits] = Traits(
        "imitate the global model on the classes that the device has few samples of", "arXiv 2409.13136", gated=True
    )

    def each(self, student: Tensor, teacher: Tensor, labels: Tensor, samples: Samples) -> Tensor:
        """See `Imitating`."""
        plenty = majority(samples.labels, student.shape[1]).to(student.device)
        return label_masked_kl(student, teacher, labels, plenty, self.temperature)
