"""Ways to make FedQUIT's pass forget where a client has few samples, tried one by one on seeds of their own.

Most are settings of `fedquit`. Two are not, as they did not win: a stop at the loss of unseen samples, and a second
pass between two rounds of recovery.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.unlearning.methods.base import Method
from fedquit.unlearning.methods.fedquit import FedQUIT
from fedquit.unlearning.methods.references import Continue
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.session import Session, weighted_mean
from fedquit.unlearning.tensors.convert import StateDict
from fedquit.unlearning.tensors.inference import logits

SETTING = "visible-wrong-labels"
DEVELOPMENT = (50, 51, 52)
"""Seeds on which the hypotheses were tried; the tables of methods have others, and three settings more."""
BETWEEN = 2
"""Rounds of recovery between two passes."""


@dataclass(frozen=True, slots=True)
class UntilUnseen(FedQUIT):
    """Stop where the loss on the samples to forget is what it was on samples that the server holds."""

    unseen: float = 0.0

    def serve(self, session: Session) -> StateDict:
        """See `Method.serve`."""
        model = session.fresh(session.seed)
        model.load_state_dict(dict(session.current))
        assert session.proxy is not None
        unseen = mean_loss(model, session.proxy)
        return weighted_mean(session.run("forget", session.forgotten, session.current, unseen=unseen))

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
        """See `Method.on_device`."""
        del step, extra
        return replace(self, unseen=(config or {})["unseen"]).forget(model, samples, seed=seed)

    def goal(self, model: nn.Module, samples: Samples, targets: Tensor, seed: int) -> Callable[[], bool]:
        """See `FedQUIT.goal`."""
        del targets, seed
        return lambda: mean_loss(model, samples) >= self.unseen


@dataclass(frozen=True, slots=True)
class TwoPasses(FedQUIT):
    """Unlearn, recover for some rounds, and unlearn again."""

    def serve(self, session: Session) -> StateDict:
        """See `Method.serve`."""
        state = weighted_mean(session.run("forget", session.forgotten, session.current))
        for _ in range(BETWEEN):
            state = weighted_mean(session.run("train", session.remaining, state))
        return weighted_mean(session.run("forget", session.forgotten, state))


def mean_loss(model: nn.Module, samples: Samples) -> float:
    """Return the mean cross-entropy in nats."""
    return float(F.cross_entropy(logits(model, samples, 256), samples.labels))


NOTHING = "none: leave the client out (`continue`)"
HYPOTHESES: dict[str, Method] = {
    NOTHING: Continue(),
    "the paper's values: one epoch at 1e-4": FedQUIT(),
    "larger steps: one epoch at 1e-3": FedQUIT(lr=1e-3),
    "a fixed number of epochs: ten at 1e-3": FedQUIT(lr=1e-3, epochs=10),
    "stop at the loss of unseen samples": UntilUnseen(lr="auto"),
    "stop at 30 % of the distance to the teacher": FedQUIT(lr="auto", near=0.3),
    "stop at 10 %": FedQUIT(lr="auto"),
    "stop at 3 %": FedQUIT(lr="auto", near=0.03),
    "10 %, teacher that knows nothing (`incompetent`)": FedQUIT(lr="auto", teacher="incompetent"),
    "10 %, softened: temperature 2": FedQUIT(lr="auto", temperature=2.0),
    "10 %, softened: temperature 4": FedQUIT(lr="auto", temperature=4.0),
    "30 %, softened: temperature 4": FedQUIT(lr="auto", temperature=4.0, near=0.3),
    "3 %, softened: temperature 4": FedQUIT(lr="auto", temperature=4.0, near=0.03),
    "10 %, temperature 4, a second pass two rounds later": TwoPasses(lr="auto", temperature=4.0),
}
