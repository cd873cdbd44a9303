"""PGA: climb the client's loss inside a ball round the model that the other clients have in common.

Source: Halimi et al., "Federated Unlearning: How to Efficiently Erase a Client in FL?", arXiv 2207.05521. The problem
is the paper's; both formulas below follow from it. We have no numbers of its equations.

1. The start. The global model w_g is the mean of all K clients' models, so the mean of all but client u's is

       w_ref = 1/(K - 1) sum_{j != u} w_j = (K w_g - w_u) / (K - 1).

2. The climb. Client u looks for the largest loss F_u(w) with ||w - w_ref|| <= delta. It starts at w_ref, takes steps up
   the gradient, and after each step moves back into the ball:

       w <- P(w + lr * gradient of F_u),   P(v) = w_ref + (v - w_ref) * min(1, delta / ||v - w_ref||).

   P(v) is the nearest point of the ball to v: it is on the line from w_ref to v.

3. The end. It stops after `epochs`, or once it is further than `stop_distance` from its own last model w_u.

Nothing derives the numbers. delta, a third of the mean distance from w_ref to ten fresh models, and the defaults of
`lr`, `momentum`, `clip`, `epochs` and `stop_distance` are what its authors published for their experiments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedquit.errors import InputError
from fedquit.unlearning.exchanges import Exchange, Outlook
from fedquit.unlearning.methods.ascent import climbing
from fedquit.unlearning.methods.base import Method, Traits, method
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.session import Session, check_replied
from fedquit.unlearning.setting_checks import check_count, check_positive, is_number
from fedquit.unlearning.tensors.arithmetic import StateMean, difference, moved, norm, parameter_names
from fedquit.unlearning.tensors.convert import StateDict
from fedquit.unlearning.tensors.fitting import descend, trainable


def reference(current: StateDict, others: Sequence[StateDict], clients: int) -> dict[str, Tensor]:
    """Return `(K g - sum_u w_u) / (K - m)`: the mean of K models with the m in `others` taken out.

    The paper's formula, which weighs clients alike. Where g is a mean by samples, more of w_u stays in it the more
    samples its client has.

    >>> g, forgotten = {"w": torch.tensor([2.0])}, {"w": torch.tensor([5.0])}
    >>> reference(g, [forgotten], clients=3)  # the other two had a mean of 0.5
    {'w': tensor([0.5000])}
    """
    rest = clients - len(others)
    taken = {
        name: sum((value.double() - other[name].double() for other in others), torch.zeros_like(value).double()) / rest
        for name, value in current.items()
        if name in others[0]
    }
    return moved(current, taken)


def radius(distances: Sequence[float]) -> float:
    """Return the ball's radius from the distances of w_ref to fresh models; see this module's docstring.

    >>> radius([3.0, 6.0])
    1.5
    """
    return fmean(distances) / 3


@torch.no_grad()
def project(parameters: Sequence[Tensor], centre: Sequence[Tensor], limit: float) -> None:
    """Move `parameters` in place to the nearest point whose distance to `centre` is at most `limit`.

    >>> w = torch.tensor([3.0, 4.0])
    >>> project([w], [torch.zeros(2)], limit=1.0)
    >>> w
    tensor([0.6000, 0.8000])
    """
    length = _distance(parameters, centre)
    if length > limit:
        for parameter, middle in zip(parameters, centre, strict=True):
            parameter.copy_(middle + (parameter - middle) * (limit / length))


@torch.no_grad()
def _distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return norm({str(i): a.double() - b.double() for i, (a, b) in enumerate(zip(one, other, strict=True))})


@method
@dataclass(frozen=True, slots=True)
class ProjectedAscent(Method):
    """Climb the loss of the samples to forget inside a ball round the mean of the others (arXiv 2207.05521).

    K is the number of clients in the last round. Several clients at once are all taken out of w_ref; each climbs from
    it, and the mean of what they hand back, by samples, is the new model.

    Attributes:
        lr: step size of SGD; .01.
        momentum: of SGD; .9.
        clip: largest norm of each variable's gradient; 5.
        epochs: passes over the samples, at most; 5.
        batch_size: samples a step.
        stop_distance: stop when the distance to w_u exceeds this; what fits depends on the model's size, and 2.2 was
            found on one model. 0 never stops early.
        fresh_models: how many fresh models the radius is measured with; 10.

    >>> ProjectedAscent(epochs=2).clip
    5.0
    """

    name: ClassVar[str] = "projected-ascent"
    traits: ClassVar[Traits] = Traits(
        granularities=frozenset({"client"}),
        runs_at="device",
        server_keeps="updates of the last round",
        needs_device=True,
        secure_aggregation=False,
        summary="the device climbs its loss inside a ball round the mean of the others",
        paper="arXiv 2207.05521",
        history="last",
    )

    lr: float = 0.01
    momentum: float = 0.9
    clip: float = 5.0
    epochs: int = 5
    batch_size: int = 32
    stop_distance: float = 2.2
    fresh_models: int = 10

    def __post_init__(self) -> None:
        for field in ("lr", "clip"):
            check_positive(field, getattr(self, field))
        for field in ("epochs", "batch_size", "fresh_models"):
            check_count(field, getattr(self, field))
        if not (is_number(self.momentum) and 0 <= self.momentum < 1):
            raise InputError(f"momentum is {self.momentum!r}; it must be at least 0 and below 1")
        if not (is_number(self.stop_distance) and self.stop_distance >= 0):
            raise InputError(f"stop_distance is {self.stop_distance!r}; it must be a finite number of at least 0")

    def serve(self, session: Session) -> StateDict:
        """Take the forgotten clients' last models out of the mean, and have each climb from there.

        Raises:
            InputError: the last round was not kept, a forgotten client took no part in it, or nobody else did.
        """
        names = parameter_names(session.fresh(session.seed))
        last, clients = self._last_models(session, names)
        start = reference(session.current, list(last.values()), clients)
        distances = []
        for number in range(self.fresh_models):
            fresh = session.fresh(derive_seed(session.seed, "fresh model", number)).state_dict()
            distances.append(norm(difference(start, fresh, names)))
        limit, mean, came = radius(distances), StateMean(), set()
        for client, own in last.items():
            for reply in session.run("forget", [client], start, extra=own, radius=limit):
                mean.add(reply.state, reply.num_examples)
                came.add(reply.client)
        check_replied(came, session.forgotten)
        return mean.result()

    def exchanges(self, outlook: Outlook) -> tuple[Exchange, ...]:
        """Each forgotten client is asked alone, as its own last model travels with the question."""
        one = Exchange("forget", (), config=("radius",), extra="parameters", passes=self.epochs)
        return tuple(replace(one, clients=(client,)) for client in outlook.forgotten)

    def _last_models(self, session: Session, names: frozenset[str]) -> tuple[dict[int, StateDict], int]:
        """Return each forgotten client's model after the last round, parameters only, and how many took part."""
        way_out = "keep the last round's updates (set the method to projected-ascent from the start), or use ascent"
        rounds = session.history.rounds()
        if not rounds:
            raise InputError(f"projected-ascent: the last round's updates were not kept; {way_out}")
        number, models = rounds[-1], dict[int, StateDict]()
        before = session.history.model(number)
        for client in session.forgotten:
            update = session.history.update(number, client)
            if update is None:
                raise InputError(f"projected-ascent: client {client} took no part in round {number}; use ascent")
            own = moved(before, update)
            models[client] = {name: own[name] for name in own if name in names}
        clients = len(session.history.participants(number))
        if clients <= len(models):
            raise InputError(
                f"projected-ascent: nobody but the forgotten clients took part in round {number}; use ascent"
            )
        return models, clients

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
        """Climb in place inside the ball of `config["radius"]` round the model as given; `extra` is w_u."""
        if step != "forget" or not config or extra is None:
            raise self.no_such_step(step, ["forget"])
        parameters, limit = trainable(model, samples), config["radius"]
        centre = [parameter.detach().clone() for parameter in parameters]
        name_of = {parameter: name for name, parameter in model.named_parameters()}
        own = [extra[name_of[parameter]].to(parameter.device) for parameter in parameters]

        def clip() -> None:
            for parameter in parameters:
                nn.utils.clip_grad_norm_([parameter], self.clip)

        def projected_and_far(_loss: float) -> bool:
            project(parameters, centre, limit)
            return bool(self.stop_distance) and _distance(parameters, own) > self.stop_distance

        losses = descend(
            model,
            samples,
            loss=climbing,
            lr=self.lr,
            momentum=self.momentum,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=seed,
            before_step=clip,
            after_step=projected_and_far,
        )
        return [-loss for loss in losses]
