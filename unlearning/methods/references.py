"""The two ends every method is measured between: do nothing, and do everything again.

Both run at the server and need no maths. The client (or the samples, or the class) is left out of every later round;
they differ only in the model that those rounds start from.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from fedquit.unlearning.exchanges import Exchange, Log, Outlook
from fedquit.unlearning.methods.base import GRANULARITIES, Method, Traits, method
from fedquit.unlearning.session import Session
from fedquit.unlearning.tensors.convert import StateDict


@method
@dataclass(frozen=True, slots=True)
class Continue(Method):
    """The lower bound: exclude the data and keep training. Costs nothing and removes nothing.

    >>> Continue.traits.runs_at
    'server'
    """

    name: ClassVar[str] = "continue"
    traits: ClassVar[Traits] = Traits(
        granularities=frozenset(GRANULARITIES),
        runs_at="server",
        server_keeps="nothing",
        needs_device=False,
        secure_aggregation=True,
        summary="leave the data out and continue training; removes nothing by itself",
        needs_model=False,
        step="nothing",
    )

    def serve(self, session: Session) -> StateDict:
        """Return the current model, or what else is shared, unchanged."""
        return session.current

    def exchanges(self, outlook: Outlook) -> tuple[Exchange, ...]:  # noqa: ARG002 - the interface
        """Nobody is asked."""
        return ()


def rollback_round(history: Log, forgotten: Collection[int]) -> int | None:
    """Return the last kept round before whose start no forgotten client had taken part; None if there is none.

    Rounds that were not kept count as well: the log of who took part covers them all.
    """
    clean, seen = None, 1
    for number in history.rounds():
        if any(set(forgotten) & set(history.participants(earlier)) for earlier in range(seen, number)):
            break
        clean, seen = number, number
    return clean


@method
@dataclass(frozen=True, slots=True)
class Retrain(Method):
    """Train again without the data from the last checkpoint that never saw it: exact, and the dearest.

    Without history that is the model before the first round. Exact means that no sample of the forgotten clients was in
    any step of the model; the rounds before the checkpoint are those that were run, with those clients in the draw.

    >>> Retrain.traits.restarts, Retrain.traits.keeps_updates
    (True, False)
    """

    name: ClassVar[str] = "retrain"
    traits: ClassVar[Traits] = Traits(
        granularities=frozenset(GRANULARITIES),
        runs_at="server",
        server_keeps="initial model; checkpoints and the log of who took part, to start later",
        needs_device=False,
        secure_aggregation=True,
        summary="train again from the last model that never saw the data; exact",
        restarts=True,
        history="rollback",
        step="nothing",
        keeps_accuracy=False,
    )

    def serve(self, session: Session) -> StateDict:
        """Return the checkpoint, or the model before the first round."""
        number = rollback_round(session.history, session.forgotten)
        return session.initial if number is None else session.history.model(number)

    def exchanges(self, outlook: Outlook) -> tuple[Exchange, ...]:  # noqa: ARG002 - the interface
        """Nobody is asked; the training that follows is ordinary rounds."""
        return ()

    def restart_round(self, outlook: Outlook) -> int:
        """Return the round that the checkpoint stands before; 1 with no history."""
        return rollback_round(outlook.history, outlook.forgotten) or 1
