"""FedKD: each device's own large teacher and one small mentee that all share learn from each other.

Source: Wu et al., "Communication-Efficient Federated Learning via Knowledge Distillation", Nature Communications 2022,
arXiv 2108.13323. Only what became of the mentee travels, its matrices as truncated SVD, both ways: a device that took
part in the round before has the mentee of then and gets what it changed by; any other gets the whole mentee.
Ours: hidden states are what a model's last linear layer takes, and the paper's attention maps have no counterpart in
these models; the divisor CE_t + CE_s weighs and gets no gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.client.objectives.base.frozen_teacher import head_of, logits_and_features
from fedquit.client.objectives.base.imitation import filled
from fedquit.client.objectives.base.objective import Done, LocalRound, Objective, Traits, objective
from fedquit.client.objectives.base.sharing import Form, Sharing
from fedquit.client.objectives.base.svd_update import is_packed, packed, packed_forms, unpacked
from fedquit.client.training.sgd import Batch, fit
from fedquit.errors import FedquitError, InputError
from fedquit.unlearning.distillation.distances import kl_each
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.setting_checks import check_at_least_zero, check_positive, check_share
from fedquit.unlearning.tensors.accelerator import on_cpu
from fedquit.unlearning.tensors.arithmetic import moved, update_of
from fedquit.unlearning.tensors.convert import Shape, StateDict
from fedquit.unlearning.tensors.inference import device_of


class ModelOutput(NamedTuple):
    """What a model returns for a batch: logits [B, C] and hidden states [B, d]."""

    logits: Tensor
    hidden: Tensor


def mutual(
    teacher: ModelOutput, mentee: ModelOutput, labels: Tensor, weight: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """Return `CE_t + CE_s + weight (KL(s || t) + KL(t || s) + MSE) / (CE_t + CE_s)`, means over the batch.

    Each KL moves one of the two, the first the teacher: whom it is to imitate gets no gradient from it. The MSE, of the
    hidden states, moves both. So each model's gradient is that of its own loss in the paper.

    >>> sure = ModelOutput(torch.tensor([[2.0, 0.0]]), torch.ones(1, 3))
    >>> unsure = ModelOutput(torch.zeros(1, 2), torch.ones(1, 3))
    >>> mutual(sure, unsure, torch.tensor([0]))  # .1269 + .6931 + (.4338 + .3278) / .8201
    tensor(1.7488)
    """
    ce = F.cross_entropy(teacher.logits, labels) + F.cross_entropy(mentee.logits, labels)
    log_t, log_s = (torch.log_softmax(output.logits / temperature, dim=1) for output in (teacher, mentee))
    apart = (kl_each(log_s.detach(), log_t) + kl_each(log_t.detach(), log_s)).mean()
    hidden = F.mse_loss(mentee.hidden, teacher.hidden)
    return ce + weight * (apart + hidden) / ce.detach().clamp(min=1e-6)


class Pair(nn.Module):
    """A device's teacher, the mentee, and the map from the mentee's hidden states to the teacher's."""

    def __init__(self, teacher: nn.Module, mentee: nn.Module) -> None:
        super().__init__()
        self.teacher, self.mentee = teacher, mentee
        width, place = head_of(mentee).in_features, device_of(teacher)
        self.map = nn.Linear(width, head_of(teacher).in_features, bias=False).to(place)

    def forward(self, inputs: Tensor) -> tuple[ModelOutput, ModelOutput]:
        """Return what teacher and mentee say of inputs [B, ...], the mentee's hidden states mapped."""
        logits, hidden = logits_and_features(self.mentee, inputs)
        return ModelOutput(*logits_and_features(self.teacher, inputs)), ModelOutput(logits, self.map(hidden))


class Updates(Sharing):
    """What the mentee changed by, in factors: up from each device, and down to those that have what it was before."""

    def __init__(self, objective: "FedKD") -> None:
        self._energy = objective.energy

    def down(self, shared: StateDict, client: int, news: StateDict | None) -> StateDict:  # noqa: ARG002 - the interface
        """See `Sharing`."""
        return shared if news is None else news

    def fits(self, claimed: Mapping[str, Shape], shared: StateDict) -> Mapping[str, Form]:
        """See `Sharing`."""
        return packed_forms(claimed, shared)

    def read(self, sent: StateDict, shared: StateDict, num_examples: int) -> StateDict:  # noqa: ARG002
        """See `Sharing`: the device's mentee.

        Raises:
            InputError: the factors multiply to what is not finite.
        """
        model = moved(shared, unpacked(sent, shared))
        if not all(bool(tensor.isfinite().all()) for tensor in model.values()):
            raise InputError("its factors multiply to NaN or infinity")
        return model

    def adopt(self, shared: StateDict, new: StateDict, progress: float) -> tuple[StateDict, StateDict | None]:
        """See `Sharing`: the server keeps what devices will have, which is what the factors of the change come to."""
        news = packed(update_of(new, shared), self._energy(progress))
        return moved(shared, unpacked(news, shared)), news


@objective
@dataclass(frozen=True, slots=True, kw_only=True)
class FedKD(Objective):
    """Teacher and mentee learn from the labels and from each other; `mentee = NAME` is the model that devices share.

    Attributes:
        weight: of what they learn from each other; 1.
        temperature: tau of both; 1.
        energy_start: share of the squares that the factors keep at the start of training; .95.
        energy_end: the same at its end, and in between in a straight line; .98.

    >>> FedKD().energy(0.0), FedKD().energy(1.0)
    (0.95, 0.98)
    """

    name: ClassVar[str] = "fedkd"
    traits: ClassVar[Traits] = Traits(
        "a device's own teacher and a small shared mentee learn from each other",
        "arXiv 2108.13323",
        down="factors",
        up="factors",
        keeps="own teacher",
        same_model=False,
    )

    weight: float = 1.0
    temperature: float = 1.0
    energy_start: float = 0.95
    energy_end: float = 0.98

    def __post_init__(self) -> None:
        check_at_least_zero("weight", self.weight)
        check_positive("temperature", self.temperature)
        for name in ("energy_start", "energy_end"):
            check_share(name, getattr(self, name))
            check_positive(name, getattr(self, name))

    def energy(self, progress: float) -> float:
        """Return the share of the squares that the factors keep."""
        return self.energy_start + (self.energy_end - self.energy_start) * progress

    def check(self, model: nn.Module) -> None:
        """See `Objective`."""
        head_of(model)

    def sharing(self, model: nn.Module, classes: int) -> Sharing:  # noqa: ARG002 - the interface
        """See `Objective`."""
        return Updates(self)

    def train(self, model: nn.Module, samples: Samples, local_round: LocalRound) -> Done:
        """See `Objective`: `model` is the teacher."""
        if local_round.mentee is None:
            raise InputError("objective 'fedkd' shares a small model: set mentee, such as mentee = mlp")
        before = self.received(local_round, on_cpu(local_round.mentee.state_dict()))
        pair = Pair(model, filled(local_round.mentee, before))
        if local_round.state is not None:
            pair.map.load_state_dict(_under("map", local_round.state))

        def together(both: nn.Module, batch: Batch) -> Tensor:
            teacher, mentee = both(batch.inputs)
            return mutual(teacher, mentee, batch.labels, self.weight, self.temperature)

        value = fit(
            pair, samples, loss=together, lr=local_round.lr, epochs=local_round.epochs,
            batch_size=local_round.batch_size, momentum=local_round.momentum, weight_decay=local_round.weight_decay,
            seed=local_round.seed,
        )  # fmt: skip
        sent = packed(update_of(on_cpu(pair.mentee.state_dict()), before), self.energy(local_round.progress))
        state = {"teacher/": pair.teacher.state_dict(), "map/": pair.map.state_dict(), "mentee/": before}
        return Done(
            value, sent, {f"{what}{name}": value for what, part in state.items() for name, value in part.items()}
        )

    def own_model(self, state: StateDict) -> StateDict:
        """See `Objective`: the teacher."""
        return _under("teacher", state)

    def received(self, local_round: LocalRound, like: StateDict) -> StateDict:
        """Return the mentee that was sent, whole or as what it changed by since the device's last round.

        Raises:
            FedquitError: the device does not have what it was before; the server then sends the whole one.
        """
        if not is_packed(local_round.shared, like):
            return local_round.shared
        had = _under("mentee", local_round.state or {})
        if not had:
            raise FedquitError("this device no longer has the mentee of its last round")
        return moved(had, unpacked(local_round.shared, had))


def _under(part: str, state: StateDict) -> dict[str, Tensor]:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
