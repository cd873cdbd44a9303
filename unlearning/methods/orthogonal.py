"""FedOSD: step down an unlearning loss in a direction that leaves the other clients' losses as they are.

Source: Pan et al., "Federated Unlearning with Gradient Descent and Conflict Mitigation", AAAI 2025, arXiv 2412.20200.
It names three parts. The loss is the paper's. The direction and the projection are derived here from what the paper
asks of them; we have no numbers of its equations. That clients train locally is how its authors' code does it.

1. The unlearning loss, `-log(1 - p_y/2)`. It is at most log 2, so descending it cannot explode, as climbing the
   cross-entropy can.

2. The steepest orthogonal direction. Let g be the gradient of that loss and g_1 ... g_m those of the other clients'
   losses. The direction d of a step solves

       max g.d   subject to   g_j.d = 0 for every j,   ||d|| = ||g||.

   Write g = s + n, with s in the span of the g_j and n orthogonal to it. Then g.d = n.d, which is largest for d along
   n: d = ||g|| n / ||n||. Gram-Schmidt finds n. To first order, a step along -d changes none of the others' losses.

   The gradients are pseudo-gradients, as in any federated training: from the global model w each client trains by
   plain SGD on its own loss, with the step size lr and the epochs and batches of ordinary rounds, and sends w', which
   stands for (w - w') / lr. The step is lr d. As d is as long as g, whatever the lengths of the g_j, lr cancels: the
   step is w - w' of the forgotten client made orthogonal to the w - w' of the others, with the length it had. With one
   epoch and all samples in one batch they are gradients.

3. The projection in recovery. A client's update is treated in the same way, with one vector in place of the g_j: the
   line from an anchor to the present model. So the model does not go back along it. The anchor is the model before the
   request, or the unlearned one (`anchor`); which of them is the default is our choice.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.errors import unknown
from fedquit.unlearning.exchanges import Exchange, Outlook
from fedquit.unlearning.methods.base import Method, Traits, method
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.session import ClientReply, Session, check_replied
from fedquit.unlearning.setting_checks import check_count, check_positive
from fedquit.unlearning.tensors.arithmetic import StateMean, difference, moved, parameter_names
from fedquit.unlearning.tensors.convert import StateDict
from fedquit.unlearning.tensors.fitting import LossOfOutputs, descend

ANCHORS = ("original", "unlearned")
EPOCHS, BATCH_SIZE = 1, 32  # where neither the method nor a run sets them
UNLEARN, TRAIN = "unlearn", "train"
"""The procedures of a device. Those of before sent a gradient for "forget" and "gradient", not what training comes to:
under other names a device and a server of different versions refuse each other."""
DEPENDENT = 1e-6  # a gradient with less than this share outside the span of those before adds no direction


def unlearning_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of `-log(1 - p_y/2)`, in nats, between 0 and log 2.

    Computed as `log 2 - log1p(1 - p_y)` with `1 - p_y` the sum of the other probabilities, so nothing is lost where p_y
    is 1 up to rounding.

    >>> unlearning_loss(torch.tensor([[100.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0]))
    tensor(0.4904)
    """
    true = F.one_hot(labels, logits.shape[1]).bool()
    others = logits.log_softmax(dim=1).exp().masked_fill(true, 0).sum(dim=1)
    loss: Tensor = math.log(2) - torch.log1p(others).mean()
    return loss


def orthonormal(vectors: Iterable[Tensor]) -> list[Tensor]:
    """Return an orthonormal basis of the span of `vectors`, by Gram-Schmidt done twice, in float64.

    >>> len(orthonormal([torch.tensor([1.0, 0.0, 0.0]), torch.tensor([2.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 0.0])]))
    2
    """
    basis: list[Tensor] = []
    for vector in vectors:
        rest = without(vector.double(), basis)
        if rest.norm() > DEPENDENT * vector.double().norm():
            basis.append(rest / rest.norm())
    return basis


def without(vector: Tensor, basis: Sequence[Tensor]) -> Tensor:
    """Return `vector` minus its part in the span of an orthonormal basis; the second pass removes rounding.

    >>> without(torch.tensor([3.0, 4.0]), [torch.tensor([1.0, 0.0])])
    tensor([0., 4.])
    """
    for _ in range(2):
        for direction in basis:
            vector = vector - torch.dot(vector, direction) * direction
    return vector


def steepest(gradient: Tensor, others: Iterable[Tensor]) -> Tensor:
    """Return `gradient` made orthogonal to all of `others`, with the length it had; zero if nothing is left of it.

    >>> steepest(torch.tensor([3.0, 4.0]), [torch.tensor([2.0, 0.0])])
    tensor([0., 5.], dtype=torch.float64)
    """
    gradient = gradient.double()
    rest = without(gradient, orthonormal(others))
    if rest.norm() <= DEPENDENT * gradient.norm():
        return torch.zeros_like(gradient)
    scaled: Tensor = rest * (gradient.norm() / rest.norm())
    return scaled


def recovery_step(update: StateDict, current: StateDict, anchor: StateDict) -> dict[str, Tensor]:
    """Return a client's recovery update with its part along `current - anchor` removed, with the length it had.

    Where `current` is `anchor` there is no such direction, and the update stays; so it does where nothing is left.
    This is part 3 of the module's docstring.

    Args:
        update: what a client sent minus what it got, parameters only.
        current: the global model of the recovery round.
        anchor: the model on whose line with `current` there must be no movement.

    >>> w, back = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 0.0])}
    >>> recovery_step({"w": torch.tensor([3.0, 4.0])}, w, back)
    {'w': tensor([0., 5.])}
    """
    axis = _flat(difference(current, anchor, update.keys()), update)
    if not axis.norm() > 0:
        return dict(update)
    straight = steepest(_flat(update, update), [axis])
    return dict(update) if not straight.norm() > 0 else _shaped(straight, update)


def _flat(update: StateDict, like: StateDict) -> Tensor:
    return torch.cat([update[name].double().flatten() for name in like])


def _shaped(vector: Tensor, like: StateDict) -> dict[str, Tensor]:
    parts = torch.split(vector, [value.numel() for value in like.values()])
    return {
        name: part.reshape(value.shape).to(value.dtype) for (name, value), part in zip(like.items(), parts, strict=True)
    }


@method
@dataclass(frozen=True, slots=True)
class Orthogonal(Method):
    """Descend the unlearning loss orthogonally to the other clients' gradients (arXiv 2412.20200).

    In each round all clients train locally, each on its own loss, by plain SGD: momentum, weight decay and objective of
    the run play no part. The server holds all the others' updates at once: K models in float64.

    Attributes:
        rounds: unlearning rounds; the paper runs them until a bound, 10 here.
        lr: step size of local training, and so along the direction.
        epochs: passes over the samples in a round; None: as many as in the run's ordinary rounds.
        batch_size: samples per step; None: as in the run's ordinary rounds.
        anchor: "original", the model before the request, to which recovery must not go back; or "unlearned", the
            model that the unlearning rounds made.

    >>> Orthogonal(rounds=3).rounds
    3
    """

    name: ClassVar[str] = "orthogonal"
    traits: ClassVar[Traits] = Traits(
        granularities=frozenset({"client"}),
        runs_at="federation",
        server_keeps="nothing",
        needs_device=True,
        secure_aggregation=False,
        summary="descend a bounded unlearning loss orthogonally to the others' gradients",
        paper="arXiv 2412.20200",
    )

    rounds: int = 10
    lr: float = 0.1
    epochs: int | None = None
    batch_size: int | None = None
    anchor: str = "original"

    def __post_init__(self) -> None:
        if self.anchor not in ANCHORS:
            raise unknown("anchor", str(self.anchor), ANCHORS)
        check_count("rounds", self.rounds)
        check_positive("lr", self.lr)
        for field in ("epochs", "batch_size"):
            if getattr(self, field) is not None:
                check_count(field, getattr(self, field))

    def as_in_run(self, *, epochs: int, batch_size: int) -> Self:
        """Return the method with the run's local training where its own settings say nothing."""
        return replace(self, epochs=self.epochs or epochs, batch_size=self.batch_size or batch_size)

    def serve(self, session: Session) -> StateDict:
        """Take the rounds; buffers stay as they are."""
        names, state = parameter_names(session.fresh(session.seed)), session.current
        for _ in range(self.rounds):
            own = self._own(session, state, names)
            others = self._others(session, state, names)
            step = steepest(_flat(own, own), [_flat(other, own) for other in others])
            state = moved(state, _shaped(step, own), -1)
        return state

    def exchanges(self, outlook: Outlook) -> tuple[Exchange, ...]:
        """In each round local training of every forgotten client, then of every remaining client."""
        own = Exchange("forget", outlook.forgotten, step=UNLEARN, passes=self.epochs)
        return (own, Exchange("forget", outlook.remaining, step=TRAIN, passes=self.epochs)) * self.rounds

    def corrected(
        self,
        sent: StateDict,
        current: StateDict,
        *,
        before: StateDict,
        unlearned: StateDict,
        parameters: Collection[str],
    ) -> StateDict:
        """Return the client's model with its update projected off the line to the anchor."""
        anchor = before if self.anchor == "original" else unlearned
        update = recovery_step(difference(sent, current, parameters), current, anchor)
        straightened = moved(current, update)
        return {name: straightened[name] if name in update else value for name, value in sent.items()}

    def _own(self, session: Session, state: StateDict, names: frozenset[str]) -> dict[str, Tensor]:
        mean, came = StateMean(), set()
        for reply in session.run("forget", session.forgotten, state, step=UNLEARN):
            mean.add(difference(state, reply.state, names), reply.num_examples)
            came.add(reply.client)
        check_replied(came, session.forgotten)
        return mean.result()

    def _others(self, session: Session, state: StateDict, names: frozenset[str]) -> list[dict[str, Tensor]]:
        def client(reply: ClientReply) -> int:
            return reply.client

        replies = sorted(session.run("forget", session.remaining, state, step=TRAIN), key=client)
        return [difference(state, reply.state, names) for reply in replies]

    def on_device(
        self,
        model: nn.Module,
        samples: Samples,
        *,
        seed: int,
        step: str = "forget",
        config: Mapping[str, float] | None = None,
        extra: StateDict | None = None,
    ) -> list[float]:
        """Train in place on the unlearning loss ("unlearn") or on the cross-entropy ("train")."""
        del config, extra
        losses: dict[str, LossOfOutputs] = {UNLEARN: unlearning_loss, TRAIN: F.cross_entropy}
        if step not in losses:
            raise self.no_such_step(step, losses)
        return descend(
            model,
            samples,
            loss=losses[step],
            lr=self.lr,
            epochs=self.epochs or EPOCHS,
            batch_size=self.batch_size or BATCH_SIZE,
            seed=seed,
        )
