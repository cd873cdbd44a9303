"""PUF: the client trains one ordinary round, and the server applies its update backwards.

The update is a pseudo-gradient of the client's loss, so its negation climbs that loss. Nothing but an ordinary round
is needed, and several clients can leave at once. Source: PUF, arXiv 2504.05822.
"""

from dataclasses import dataclass
from typing import ClassVar

from fedquit.unlearning.exchanges import Exchange, Outlook
from fedquit.unlearning.methods.base import GRANULARITIES, Method, Traits, method
from fedquit.unlearning.session import Session, weighted_mean
from fedquit.unlearning.setting_checks import check_positive
from fedquit.unlearning.tensors.arithmetic import difference, moved, parameter_names
from fedquit.unlearning.tensors.convert import StateDict


@method
@dataclass(frozen=True, slots=True)
class PseudoAscent(Method):
    """Return `g - scale * sum_u w_u (f_u - g)`, f_u being g after an ordinary round of u (arXiv 2504.05822).

    Parameters alone move: batch normalisation's running variance could turn negative.

    Attributes:
        scale: the unlearning step, eta_u in the paper, which tunes it for each task; 1 mirrors the round.

    >>> PseudoAscent(scale=2.0)
    PseudoAscent(scale=2.0)
    """

    name: ClassVar[str] = "pseudo-ascent"
    traits: ClassVar[Traits] = Traits(
        granularities=frozenset(GRANULARITIES),
        runs_at="device",
        server_keeps="nothing",
        needs_device=True,
        secure_aggregation=True,
        summary="the server applies one ordinary update of the client backwards",
        paper="arXiv 2504.05822",
    )

    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)

    def serve(self, session: Session) -> StateDict:
        """Ask the forgotten clients for one ordinary round, and step the other way."""
        current = session.current
        trained = weighted_mean(session.run("train", session.forgotten, current), session.forgotten)
        return moved(current, difference(trained, current, parameter_names(session.fresh(session.seed))), -self.scale)

    def exchanges(self, outlook: Outlook) -> tuple[Exchange, ...]:
        """One ordinary round of the forgotten clients."""
        return (Exchange("train", outlook.forgotten),)
