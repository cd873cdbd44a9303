"""Plain gradient ascent on the samples to forget: the ablation that shows what every cleverer method adds.

The cross-entropy has no upper bound, so the gradient's norm is clipped and the climb may end at a given loss.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.unlearning.exchanges import Exchange, Outlook
from fedquit.unlearning.methods.base import GRANULARITIES, Method, Traits, method
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.setting_checks import check_count, check_positive
from fedquit.unlearning.tensors.fitting import descend, trainable


def climbing(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the negative cross-entropy: to descend it is to climb.

    >>> import torch
    >>> climbing(torch.zeros(1, 2), torch.tensor([0]))
    tensor(-0.6931)
    """
    return -F.cross_entropy(logits, labels)


@method
@dataclass(frozen=True, slots=True)
class Ascent(Method):
    """Climb the cross-entropy of the samples to forget.

    Attributes:
        lr: step size.
        epochs: passes over the samples, at most.
        batch_size: samples a step.
        clip: largest norm of the gradient over all parameters.
        max_loss: stop at the first batch whose mean loss (nats) exceeds this; None never stops early.

    >>> import torch
    >>> samples = Samples(torch.ones(4, 2), torch.tensor([0, 1, 2, 0]))
    >>> len(Ascent(epochs=2).forget(nn.Linear(2, 3), samples, seed=0))
    2
    """

    name: ClassVar[str] = "ascent"
    traits: ClassVar[Traits] = Traits(
        granularities=frozenset(GRANULARITIES),
        runs_at="device",
        server_keeps="nothing",
        needs_device=True,
        secure_aggregation=True,
        summary="the device climbs the loss of the samples, gradient clipped; the ablation",
    )

    lr: float = 0.01
    epochs: int = 1
    batch_size: int = 32
    clip: float = 5.0
    max_loss: float | None = None

    def __post_init__(self) -> None:
        for field in ("lr", "clip"):
            check_positive(field, getattr(self, field))
        for field in ("epochs", "batch_size"):
            check_count(field, getattr(self, field))
        if self.max_loss is not None:
            check_positive("max_loss", self.max_loss)

    def exchanges(self, outlook: Outlook) -> tuple[Exchange, ...]:
        """One request to the forgotten clients."""
        return (Exchange("forget", outlook.forgotten, passes=self.epochs),)

    def forget(self, model: nn.Module, samples: Samples, *, seed: int) -> list[float]:
        """Climb in place; return the mean cross-entropy of each epoch that was begun."""
        parameters = trainable(model, samples)

        def clip() -> None:
            nn.utils.clip_grad_norm_(parameters, self.clip)

        def too_far(loss: float) -> bool:
            return self.max_loss is not None and -loss > self.max_loss

        losses = descend(
            model,
            samples,
            loss=climbing,
            lr=self.lr,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=seed,
            before_step=clip,
            after_step=too_far,
        )
        return [-loss for loss in losses]
