"""FD: devices tell each other what their models say of each class on average, and nothing else travels.

Source: Jeong et al., "Communication-Efficient On-Device Machine Learning: Federated Distillation and Augmentation under
Non-IID Private Data", arXiv 1811.11479, Algorithm 1. There a device averages its logits while it trains; here over its
samples once it has trained. There the server sends what it has of a class only; a class that nobody else has is NaN.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedquit.client.objectives.base.frozen_teacher import said_of_all
from fedquit.client.objectives.base.imitation import Asked, Imitating
from fedquit.client.objectives.base.objective import Done, LocalRound, Traits, objective
from fedquit.client.objectives.base.sharing import Form, LatestReplies, class_counts, class_means, mean_by_class
from fedquit.client.training.sgd import Batch
from fedquit.unlearning.distillation.distances import kl_each
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.convert import StateDict
from fedquit.unlearning.tensors.inference import device_of


def class_kl(student: Tensor, class_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(class || student) of each sample [B]; 0 where the class has no logits (NaN).

    Args:
        student: logits [B, C].
        class_logits: those of each sample's class [B, C].
        temperature: tau, by which both are divided.

    >>> z = torch.tensor([[0.0, 1.0]])
    >>> class_kl(z, z), class_kl(z, z.flip(1)), class_kl(z, z * torch.nan)
    (tensor([0.]), tensor([0.4621]), tensor([0.]))
    """
    unknown = class_logits.isnan().any(dim=1)
    goal = torch.log_softmax(class_logits.detach().masked_fill(unknown[:, None], 0.0) / temperature, dim=1)
    return kl_each(goal, torch.log_softmax(student / temperature, dim=1)).masked_fill(unknown, 0.0)


def leave_one_out(replies: Mapping[int, StateDict], client: int, classes: int) -> Tensor:
    """Return what the others say of each class on average, each device counting alike, [C, C]; NaN: nobody has it.

    >>> one, two = [{"logits": torch.eye(2) * k, "counts": torch.tensor([3, k - 1])} for k in (1, 2)]
    >>> leave_one_out({0: one, 1: two}, 0, 2).tolist(), leave_one_out({0: one, 1: two}, 1, 2).tolist()
    ([[2.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [nan, nan]])
    """
    others = [reply for other, reply in replies.items() if other != client]
    if not others:
        return torch.full((classes, classes), torch.nan)
    return mean_by_class([said["logits"] for said in others], [(said["counts"] > 0).int() for said in others])


class ClassLogits(LatestReplies):
    """C^2 logits and C counts come up from each device; C^2 logits go down, the mean of what the others said."""

    def __init__(self, classes: int) -> None:
        super().__init__({"logits": Form("float32", (classes, classes)), "counts": Form("int32", (classes,))})
        self.classes = classes

    def download(self, replies: Mapping[int, StateDict], client: int) -> StateDict:
        """See `LatestReplies`."""
        return {"logits": leave_one_out(replies, client, self.classes)}


@objective
@dataclass(frozen=True, slots=True, kw_only=True)
class FD(Imitating):
    """`CE + g KL(what the other devices say of the sample's class || own)`, each with a model of its own kind.

    Attributes:
        weight: g; .1.
        temperature: tau; 1.
        teacher_mode: the mode in which the personalised model is evaluated for what it sends, "eval" or "train".

    >>> FD().weight, FD.traits.same_model
    (0.1, False)
    """

    name: ClassVar[str] = "fd"
    traits: ClassVar[Traits] = Traits(
        "imitate what the other devices say of each class on average",
        "arXiv 1811.11479",
        down="class logits",
        up="class logits",
        keeps="own model",
        shares="answers",
        same_model=False,
    )

    weight: float = 0.1

    def sharing(self, model: nn.Module, classes: int) -> LatestReplies:  # noqa: ARG002 - the interface
        """See `Objective`."""
        return ClassLogits(classes)

    def asked(self, model: nn.Module, samples: Samples, local_round: LocalRound) -> Asked | None:  # noqa: ARG002
        """See `Imitating`: the teacher is a table, a row for each class; None in the first round."""
        if not local_round.shared:
            return None
        table = local_round.shared["logits"].to(device_of(model))

        def look_up(batch: Batch) -> tuple[Tensor, ...]:
            return (table[batch.labels],)

        return look_up

    def each(self, student: Tensor, teacher: Tensor, labels: Tensor, samples: Samples) -> Tensor:  # noqa: ARG002
        """See `Imitating`."""
        return class_kl(student, teacher, self.temperature)

    def train(self, model: nn.Module, samples: Samples, local_round: LocalRound) -> Done:
        """See `Objective`."""
        done = Imitating.train(self, model, samples, local_round)
        (logits,) = said_of_all(model, samples, self.teacher_mode)
        classes, labels = logits.shape[1], samples.labels.cpu()
        sent = {"logits": class_means(logits, labels, classes), "counts": class_counts(labels, classes)}
        return Done(done.loss, sent, keep=model.state_dict())
