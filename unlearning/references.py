"""The two ends every method is measured between: do nothing, and do everything again.

Both run at the server and need no maths. The client (or the samples, or the class) is left out of every later round;
they differ only in the model from which those rounds go on.
"""

from dataclasses import dataclass
from typing import ClassVar

from fedquit.unlearning.methods import GRANULARITIES, Kept, StateDict, Traits, method


@method
@dataclass(frozen=True, slots=True)
class Continue:
    """Leave the data out and go on from the model as it is: what forgetting costs nothing, and is worth nothing.

    >>> Continue().forget({}, Kept(initial={}))
    {}
    """

    name: ClassVar[str] = "continue"
    traits: ClassVar[Traits] = Traits(
        granularities=frozenset(GRANULARITIES),
        runs_at="server",
        server_keeps="nothing",
        needs_device=False,
        secure_aggregation=True,
        summary="leave the data out and go on; removes nothing by itself",
    )

    def forget(self, current: StateDict, kept: Kept) -> StateDict:  # noqa: ARG002 - the interface
        """Return the current model unchanged."""
        return current


@method
@dataclass(frozen=True, slots=True)
class Retrain:
    """Train again from the model before the first round, without the data: exact, and the dearest.

    >>> Retrain().forget({}, Kept(initial={}))
    {}
    """

    name: ClassVar[str] = "retrain"
    traits: ClassVar[Traits] = Traits(
        granularities=frozenset(GRANULARITIES),
        runs_at="server",
        server_keeps="initial model",
        needs_device=False,
        secure_aggregation=True,
        summary="train again from scratch without the data; exact",
        restarts=True,
    )

    def forget(self, current: StateDict, kept: Kept) -> StateDict:  # noqa: ARG002 - the interface
        """Return the model before the first round."""
        return kept.initial
