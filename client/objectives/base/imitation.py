"""What objectives with a teacher share: when it is asked, which samples count, and how the term is scaled.

Three conventions that papers and their codes do not agree on are settings everywhere: the reduction (batchmean:
summed over classes; mean: that over the number of classes), the factor tau^2, and whether the teacher is asked in
evaluation or in training mode. The samples to imitate may be chosen by a gate.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.client.objectives.base.frozen_teacher import MODES, Teacher
from fedquit.client.objectives.base.gates import Gate
from fedquit.client.objectives.base.objective import LocalRound, Objective, Traits
from fedquit.client.training.sgd import Batch, Loss, cross_entropy
from fedquit.errors import InputError, unknown
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.setting_checks import check_at_least_zero, check_positive
from fedquit.unlearning.tensors.convert import StateDict

REDUCTIONS = ("batchmean", "mean")
Asked = Callable[[Batch], tuple[Tensor, ...]]
"""From a batch to what the teacher says of it: logits [B, C], alone in a tuple."""


def mean_over(each: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean of `each` [B], by weight; 0 where no sample has any.

    >>> import torch
    >>> mean_over(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 1.0])), mean_over(torch.ones(2), torch.zeros(2))
    (tensor(2.), tensor(0.))
    """
    if weights is None:
        return each.mean()
    return (weights * each).sum() / weights.sum().clamp(min=1e-30)


def filled(model: nn.Module, state: StateDict) -> nn.Module:
    """Return another model of the same kind with the weights of `state`.

    >>> import torch
    >>> filled(nn.Linear(1, 1, bias=False), {"weight": torch.tensor([[3.0]])}).weight.item()
    3.0
    """
    other = copy.deepcopy(model)
    other.load_state_dict(dict(state))
    return other


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated(Objective):
    """An objective that asks a teacher, and whose term some samples may be left out of.

    Attributes:
        teacher_mode: how the teacher is asked, "eval" or "train".
        gate: which samples count; None: all alike.
    """

    teacher_mode: str = "eval"
    gate: Gate | None = None

    def __post_init__(self) -> None:
        if self.teacher_mode not in MODES:
            raise unknown("teacher_mode", str(self.teacher_mode), MODES)
        if self.gate is not None and not callable(self.gate):
            raise InputError(
                f"gate is {self.gate!r}; make one with make_gate, or set gate = NAME next to the objective"
            )

    def needs(self) -> Traits:
        """See `Objective`: a gate that compares needs the previous model."""
        compares = self.gate is not None and self.gate.compares
        return replace(self.traits, keeps="previous model") if compares else self.traits

    def reference(self, model: nn.Module, samples: Samples, local_round: LocalRound) -> Teacher | None:
        """Return whom the gate compares with: the device's previous model; None if it is its first round."""
        if self.gate is None or not self.gate.compares or local_round.state is None:
            return None
        return Teacher(filled(model, local_round.state), samples)

    def weights(self, student: Tensor, teacher: Tensor, batch: Batch, reference: Teacher | None) -> Tensor | None:
        """Return the gate's weights [B]; None: all alike."""
        if self.gate is None:
            return None
        return self.gate(student, teacher, reference(batch)[0] if reference else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imitating(Gated):
    """Cross-entropy plus `weight` times how far the student's distribution of each sample is from the teacher's.

    Attributes:
        weight: of the term.
        temperature: tau, by which both logits are divided.
        tau_squared: multiply the term by tau^2, so that its gradient's size does not depend on tau (arXiv 1503.02531).
        reduction: "batchmean" or "mean", which is batchmean divided by the number of classes.
    """

    weight: float = 1.0
    temperature: float = 1.0
    tau_squared: bool = True
    reduction: str = "batchmean"

    def __post_init__(self) -> None:
        Gated.__post_init__(self)
        check_at_least_zero("weight", self.weight)
        check_positive("temperature", self.temperature)
        if not isinstance(self.tau_squared, bool):
            raise InputError(f"tau_squared is {self.tau_squared!r}; it must be true or false")
        if self.reduction not in REDUCTIONS:
            raise unknown("reduction", str(self.reduction), REDUCTIONS)

    def teacher(self, model: nn.Module, local_round: LocalRound) -> nn.Module | None:  # noqa: ARG002 - the interface
        """Return whom to imitate, the global model unless overridden; None: nobody in this round."""
        return model

    def asked(self, model: nn.Module, samples: Samples, local_round: LocalRound) -> Asked | None:
        """Return what the teacher says of a batch; None: nobody is imitated in this round."""
        teacher = self.teacher(model, local_round)
        return None if teacher is None else Teacher(teacher, samples, self.teacher_mode)

    def each(self, student: Tensor, teacher: Tensor, labels: Tensor, samples: Samples) -> Tensor:
        """Return how far apart two logits [B, C] are for each sample [B]; `samples` are all of the client's."""
        raise NotImplementedError

    def total(self, ce: Tensor, term: Tensor) -> Tensor:
        """Return the loss made of cross-entropy and term."""
        return ce + self.weight * term

    def loss(self, model: nn.Module, samples: Samples, local_round: LocalRound) -> Loss:
        """See `Objective`."""
        asked = self.asked(model, samples, local_round)
        if asked is None:
            return cross_entropy
        reference = self.reference(model, samples, local_round)

        def imitating(student: nn.Module, batch: Batch) -> Tensor:
            logits, (goal,) = student(batch.inputs), asked(batch)
            each = self.each(logits, goal, batch.labels, samples)
            term = mean_over(each, self.weights(logits, goal, batch, reference)) * self.scale(logits.shape[1])
            return self.total(F.cross_entropy(logits, batch.labels), term)

        return imitating

    def scale(self, classes: int) -> float:
        """Return the factor of the two conventions on a term that is summed over classes.

        >>> Imitating(temperature=2.0, reduction="mean").scale(classes=8)
        0.5
        """
        factor = self.temperature**2 if self.tau_squared else 1.0
        return factor / classes if self.reduction == "mean" else factor
