"""Which samples are worth imitating: a gate gives each sample's term of an objective a weight, without gradient.

What is the papers' and what is ours. `speculative` follows SpecKD (arXiv 2510.24021), which evaluates the tokens of a
text; here a sample is what a token is there. Its values of k and beta were not to be had: k = 2 and beta = 0 are ours.
`adaptive` follows AdaSPEC (arXiv 2510.19779), which compares with a draft model distilled beforehand; the reference
here is the device's model at the end of the last round that it took part in, the global model at first: that is
ours. The share .4 is the paper's. That a gate goes with any objective that has a term of each sample is ours too.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from fedquit.errors import unknown
from fedquit.unlearning.distillation.distances import kl_each
from fedquit.unlearning.setting_checks import check_at_least_zero, check_count, check_positive, check_share


def agreement_weights(student: Tensor, teacher: Tensor, top_k: int, beta: float) -> Tensor:
    """Return 1 where the student's first class is among the teacher's first `top_k`, else `beta`: weights [B].

    >>> agreement_weights(torch.tensor([[9.0, 0, 0], [0, 0, 9]]), torch.tensor([[3.0, 2, 1], [3, 2, 1]]), 2, 0.5)
    tensor([1.0000, 0.5000])
    """
    first = student.argmax(dim=1, keepdim=True)
    among = (teacher.topk(min(top_k, teacher.shape[1]), dim=1).indices == first).any(dim=1)
    return torch.where(among, 1.0, beta).to(student.dtype)


def learnable_weights(student: Tensor, teacher: Tensor, reference: Tensor, share: float) -> Tensor:
    """Return 1 for the `share` of samples with the largest KL(teacher||student) - KL(teacher||reference), else 0: [B].

    At least one sample is chosen; among equals those that come first in the batch.

    >>> teacher, new = torch.tensor([[4.0, 0], [4, 0]]), torch.tensor([[0.0, 4], [4, 0]])
    >>> learnable_weights(student=new, teacher=teacher, reference=teacher, share=0.5)
    tensor([1., 0.])
    """
    goal = torch.log_softmax(teacher, dim=1)
    gain = kl_each(goal, torch.log_softmax(student, dim=1)) - kl_each(goal, torch.log_softmax(reference, dim=1))
    chosen = gain.argsort(descending=True, stable=True)[: max(1, round(share * len(gain)))]
    return torch.zeros_like(gain).index_fill(0, chosen, 1.0)


class Gate(Protocol):
    """From what student, teacher and reference say of a batch, logits [B, C], to weights [B] of at least 0."""

    name: ClassVar[str]
    compares: ClassVar[bool]
    """Whether it needs the reference, so that the device must keep its previous model."""

    def __call__(self, student: Tensor, teacher: Tensor, reference: Tensor | None) -> Tensor:
        """Return the weights."""
        ...


@dataclass(frozen=True, slots=True)
class Speculative:
    """Imitate where student and teacher roughly agree (SpecKD, arXiv 2510.24021).

    Attributes:
        top_k: how many of the teacher's classes the student's first must be among; 2, ours.
        beta: weight of the other samples; 0, ours.

    >>> Speculative(top_k=1)(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    tensor([0.])
    """

    name: ClassVar[str] = "speculative"
    compares: ClassVar[bool] = False

    top_k: int = 2
    beta: float = 0.0

    def __post_init__(self) -> None:
        check_count("top_k", self.top_k)
        check_at_least_zero("beta", self.beta)

    def __call__(self, student: Tensor, teacher: Tensor, reference: Tensor | None = None) -> Tensor:
        """See `Gate`."""
        del reference
        return agreement_weights(student.detach(), teacher, self.top_k, self.beta)


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Imitate the samples that the student has most to learn on (AdaSPEC, arXiv 2510.19779).

    Attributes:
        share: of each batch; .4, the paper's.

    >>> Adaptive().share
    0.4
    """

    name: ClassVar[str] = "adaptive"
    compares: ClassVar[bool] = True

    share: float = 0.4

    def __post_init__(self) -> None:
        check_share("share", self.share)
        check_positive("share", self.share)

    def __call__(self, student: Tensor, teacher: Tensor, reference: Tensor | None) -> Tensor:
        """See `Gate`; no reference: the teacher is the reference."""
        return learnable_weights(student.detach(), teacher, teacher if reference is None else reference, self.share)


GATES: dict[str, type[Speculative] | type[Adaptive]] = {gate.name: gate for gate in (Speculative, Adaptive)}
"""Every gate by name."""


def make_gate(name: str, /, **settings: Any) -> Gate:
    """Return the gate `name` with these settings.

    Raises:
        InputError: no such gate or setting, or a setting is out of range.

    >>> make_gate("speculative", beta=0.1)
    Speculative(top_k=2, beta=0.1)
    """
    if name not in GATES:
        raise unknown("gate", name, GATES)
    for given in settings:
        if given not in GATES[name].__dataclass_fields__:
            raise unknown(f"setting of gate '{name}'", given, GATES[name].__dataclass_fields__)
    return GATES[name](**settings)
