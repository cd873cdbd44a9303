"""FedProto: features near the mean feature of their class, a class's prototype, over all devices.

Source: Tan et al., "FedProto: Federated Prototype Learning across Heterogeneous Clients", AAAI 2022, arXiv 2105.00243.
Models may differ in all but the number d of features, which are what a model's last linear layer takes. Where they
differ in that too, `features` inserts a layer with that many outputs before the last one; that is ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.client.objectives.base.frozen_teacher import head_of, logits_and_features, said_of_all
from fedquit.client.objectives.base.objective import Done, LocalRound, Objective, Traits, objective
from fedquit.client.objectives.base.sharing import Form, LatestReplies, class_counts, class_means, mean_by_class
from fedquit.client.training.sgd import Batch, Loss, cross_entropy
from fedquit.errors import InputError
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.setting_checks import check_at_least_zero
from fedquit.unlearning.tensors.convert import Shape, StateDict
from fedquit.unlearning.tensors.inference import device_of


def distance_to_prototypes(features: Tensor, prototypes: Tensor, labels: Tensor) -> Tensor:
    """Return the mean squared distance of each sample's features to its class's prototype, over d, [B].

    Args:
        features: [B, d].
        prototypes: [C, d]; NaN for a class without one, whose samples have no term: 0.
        labels: [B].

    >>> prototypes = torch.tensor([[1.0, 1.0], [torch.nan, torch.nan]])
    >>> distance_to_prototypes(torch.tensor([[3.0, 1.0], [5.0, 5.0]]), prototypes, torch.tensor([0, 1]))
    tensor([2., 0.])
    """
    goal = prototypes[labels].detach()
    goal = torch.where(goal.isnan(), features, goal)
    return F.mse_loss(features, goal, reduction="none").mean(dim=1)


def with_features(model: nn.Module, features: int) -> nn.Module:
    """Put a linear layer with `features` outputs and a ReLU before the model's last linear layer, in place.

    >>> model = with_features(nn.Sequential(nn.Linear(5, 3)), features=2)
    >>> head_of(model), model(torch.zeros(1, 5)).shape
    (Linear(in_features=2, out_features=3, bias=True), torch.Size([1, 3]))
    """
    head = head_of(model)
    longer = nn.Sequential(nn.Linear(head.in_features, features), nn.ReLU(), nn.Linear(features, head.out_features))
    if model is head:
        return longer
    path = next(name for name, layer in model.named_modules() if layer is head)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, longer)
    return model


class Prototypes(LatestReplies):
    """C_k prototypes and C counts come up from each device; C prototypes go down, their mean by numbers of samples."""

    def __init__(self, classes: int, features: int) -> None:
        super().__init__({"prototypes": Form("float32", (classes, features)), "counts": Form("int32", (classes,))})

    def download(self, replies: Mapping[int, StateDict], client: int) -> StateDict:  # noqa: ARG002 - the interface
        """See `LatestReplies`."""
        counts = [said["counts"] for said in replies.values()]
        rows = [_unpacked(said) for said in replies.values()]
        return {"prototypes": mean_by_class(rows, counts)}

    def fits(self, claimed: Mapping[str, Shape], shared: StateDict) -> Mapping[str, Form]:  # noqa: ARG002
        """See `Sharing`: a device has as many prototypes as classes, at least one and at most all."""
        form = self.forms["prototypes"]
        most, features = form.shape
        (says, *_) = (*claimed.get("prototypes", ()), 1)
        return {**self.forms, "prototypes": form._replace(shape=(min(max(says, 1), most), features))}

    def read(self, sent: StateDict, shared: StateDict, num_examples: int) -> StateDict:
        """See `LatestReplies`."""
        said = super().read(sent, shared, num_examples)
        rows, has = len(said["prototypes"]), int((said["counts"] > 0).sum())
        if rows != has:
            raise InputError(f"{rows} prototypes where 'counts' name {has} classes")
        return said


def _unpacked(said: StateDict) -> Tensor:
    """Return a device's prototypes in the rows of their classes, [C, d]; zeros for those that it has none of."""
    has = said["counts"] > 0
    rows = torch.zeros(len(has), said["prototypes"].shape[1], dtype=said["prototypes"].dtype)
    rows[has] = said["prototypes"]
    return rows


@objective
@dataclass(frozen=True, slots=True, kw_only=True)
class FedProto(Objective):
    """`CE + lambda MSE(h, prototype of the sample's class)`; each device with a model of its own kind.

    Attributes:
        weight: lambda; 1.
        features: d, where the models differ in it: a layer with d outputs is put before the last one; 0: none.

    >>> FedProto().weight
    1.0
    """

    name: ClassVar[str] = "fedproto"
    traits: ClassVar[Traits] = Traits(
        "features near the mean feature of their class over all devices",
        "arXiv 2105.00243",
        down="prototypes",
        up="prototypes",
        keeps="own model",
        shares="answers",
        same_model=False,
    )

    weight: float = 1.0
    features: int = 0

    def __post_init__(self) -> None:
        check_at_least_zero("weight", self.weight)
        if not isinstance(self.features, int) or isinstance(self.features, bool) or self.features < 0:
            raise InputError(f"features is {self.features!r}; it must be a whole number of at least 0")

    def check(self, model: nn.Module) -> None:
        """See `Objective`."""
        head_of(model)

    def shaped(self, model: nn.Module) -> nn.Module:
        """See `Objective`."""
        return with_features(model, self.features) if self.features else model

    def sharing(self, model: nn.Module, classes: int) -> LatestReplies:
        """See `Objective`."""
        return Prototypes(classes, head_of(model).in_features)

    def loss(self, model: nn.Module, samples: Samples, local_round: LocalRound) -> Loss:  # noqa: ARG002 - the interface
        """See `Objective`."""
        if not local_round.shared:
            return cross_entropy
        prototypes = local_round.shared["prototypes"].to(device_of(model))

        def near(student: nn.Module, batch: Batch) -> Tensor:
            logits, features = logits_and_features(student, batch.inputs)
            term = distance_to_prototypes(features, prototypes, batch.labels).mean()
            return F.cross_entropy(logits, batch.labels) + self.weight * term

        return near

    def train(self, model: nn.Module, samples: Samples, local_round: LocalRound) -> Done:
        """See `Objective`."""
        done = Objective.train(self, model, samples, local_round)
        logits, features = said_of_all(model, samples, view=logits_and_features)
        labels = samples.labels.cpu()
        counts = class_counts(labels, logits.shape[1])
        prototypes = class_means(features, labels, len(counts))[counts > 0]
        return Done(done.loss, {"prototypes": prototypes, "counts": counts}, keep=model.state_dict())
