"""MoDe: a model that never saw the client's samples first dilutes the global one, then guides its memory.

Degradation: a newly initialised model is trained on the other clients, and the global one follows it a little each
round. Memory guidance: the client trains the diluted model on what the degradation model says of its samples.
Source: Zhao et al., "Federated Unlearning With Momentum Degradation", IEEE Internet of Things Journal, 2023.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from fedquit.errors import InputError
from fedquit.unlearning.exchanges import Exchange, Outlook
from fedquit.unlearning.methods.base import Method, Traits, method
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.session import Session, weighted_mean
from fedquit.unlearning.setting_checks import check_count, check_positive, check_share
from fedquit.unlearning.tensors.convert import StateDict
from fedquit.unlearning.tensors.fitting import descend
from fedquit.unlearning.tensors.inference import logits


def degraded(state: StateDict, degradation: StateDict, keep: float) -> dict[str, Tensor]:
    """Return `keep * state + (1 - keep) * degradation`; integer entries are those of `state`.

    >>> import torch
    >>> degraded({"w": torch.tensor([1.0])}, {"w": torch.tensor([0.0])}, 0.95)
    {'w': tensor([0.9500])}
    """
    return {
        name: (keep * value.double() + (1 - keep) * degradation[name].double()).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in state.items()
    }


@method
@dataclass(frozen=True, slots=True)
class MoDe(Method):
    """Degrade the model by one trained without the client, then guide it by that one's predictions.

    Forgets clients only: the degradation model is trained on the other clients, whose samples of a class, or the
    forgotten client's own that remain, it could not tell apart.

    Attributes:
        rounds: rounds of degradation; the paper leaves them to the task, 10 here.
        keep: share of the global model that survives each of them; .95.
        guidance_rounds: rounds of memory guidance.
        lr: step size of memory guidance.
        epochs: passes over the samples in each of its rounds.
        batch_size: samples a step.

    >>> MoDe(rounds=3).keep
    0.95
    """

    name: ClassVar[str] = "mode"
    traits: ClassVar[Traits] = Traits(
        granularities=frozenset({"client"}),
        runs_at="federation",
        server_keeps="nothing",
        needs_device=True,
        secure_aggregation=True,
        summary="a model trained without the client dilutes the global one, then labels the client's samples",
        paper="IEEE Internet of Things Journal 2023 (MoDe)",
        step="answers",
    )

    rounds: int = 10
    keep: float = 0.95
    guidance_rounds: int = 1
    lr: float = 0.01
    epochs: int = 1
    batch_size: int = 32

    def __post_init__(self) -> None:
        for field in ("rounds", "guidance_rounds", "epochs", "batch_size"):
            check_count(field, getattr(self, field))
        check_share("keep", self.keep)
        check_positive("lr", self.lr)

    def serve(self, session: Session) -> StateDict:
        """Degrade on the remaining clients, then have the forgotten clients guided."""
        if not session.remaining:
            raise InputError("mode: no client stays, so there is nobody to train the degradation model; use negate")
        state, seed = session.current, derive_seed(session.seed, "degradation model")
        degradation: StateDict = session.fresh(seed).state_dict()
        for _ in range(self.rounds):
            degradation = weighted_mean(session.run("train", session.remaining, degradation))
            state = degraded(state, degradation, self.keep)
        for _ in range(self.guidance_rounds):
            replies = session.run("forget", session.forgotten, state, step="guide", extra=degradation)
            state = weighted_mean(replies, session.forgotten)
        return state

    def exchanges(self, outlook: Outlook) -> tuple[Exchange, ...]:
        """The remaining clients train the degradation model; it then travels with the model and guides the others."""
        guide = Exchange("forget", outlook.forgotten, step="guide", extra="state", passes=self.epochs + 1 / 3)
        return (Exchange("train", outlook.remaining),) * self.rounds + (guide,) * self.guidance_rounds

    def on_device(
        self,
        model: nn.Module,
        samples: Samples,
        *,
        seed: int,
        step: str = "guide",
        config: Mapping[str, float] | None = None,
        extra: StateDict | None = None,
    ) -> list[float]:
        """Step "guide": train in place on the labels that the model in `extra` predicts."""
        del config
        if step != "guide" or extra is None:
            raise self.no_such_step(step, ["guide"])
        guided = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(extra)
        predicted = logits(model, samples).argmax(dim=1).cpu()
        model.load_state_dict(guided)
        return descend(
            model,
            Samples(samples.inputs, predicted),
            lr=self.lr,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=seed,
        )
