"""FedEraser: replay what training kept, with every step's length from then and its direction from now.

The server kept the updates of round 1 and of every second round after it. From the corrected model each remaining
client trains briefly; how far to go is what it went then. Source: FedEraser, arXiv 2012.13891, section IV.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from fedquit.errors import FedquitError, InputError
from fedquit.unlearning.exchanges import Exchange, Log, Outlook
from fedquit.unlearning.methods.base import Method, Traits, method
from fedquit.unlearning.session import Session
from fedquit.unlearning.setting_checks import check_count
from fedquit.unlearning.tensors.arithmetic import StateMean, difference, moved, norm, parameter_names
from fedquit.unlearning.tensors.convert import StateDict


def calibrated(stored: StateDict, fresh: StateDict) -> dict[str, Tensor]:
    """Return `||stored|| * fresh / ||fresh||`, one norm over all layers; a fresh update of zero stays zero.

    >>> import torch
    >>> calibrated({"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([0.0, 2.0])})
    {'w': tensor([0., 5.])}
    """
    length = norm(fresh)
    factor = norm(stored) / length if length > 0 else 0.0
    return {name: factor * value for name, value in fresh.items()}


def rounds_run(history: Log) -> list[int]:
    """Return the rounds of training that were run, kept or not."""
    rounds: list[int] = []
    while history.participants(len(rounds) + 1):
        rounds.append(len(rounds) + 1)
    return rounds


def replayed(rounds: Sequence[int], interval: int) -> list[int]:
    """Return round 1 and every `interval`-th after it, of those that were run.

    >>> replayed([1, 2, 3, 4, 5], 2)
    [1, 3, 5]
    """
    return [number for number in rounds if (number - 1) % interval == 0]


@method
@dataclass(frozen=True, slots=True)
class FedEraser(Method):
    """Rebuild the model from the remaining clients' kept updates, calibrated (arXiv 2012.13891).

    Round 1 needs no calibration, as its model never saw the client: its stored updates are used as they are. Buffers,
    such as batch normalisation's, are not scaled: they are the mean of what the clients hand back.

    Attributes:
        interval: replay round 1 and every `interval`-th after it; delta t in the paper, 2.
        epochs: epochs that a client trains to find the direction; E_cali in the paper, 1.

    >>> FedEraser().interval
    2
    """

    name: ClassVar[str] = "federaser"
    traits: ClassVar[Traits] = Traits(
        granularities=frozenset({"client"}),
        runs_at="federation",
        server_keeps="all updates of round 1 and every 2nd round",
        needs_device=False,
        secure_aggregation=False,
        summary="replay the others' kept updates: their lengths, with fresh directions",
        paper="arXiv 2012.13891",
        history="every",
        history_interval=2,
        step="answers",
    )

    interval: int = 2
    epochs: int = 1

    def __post_init__(self) -> None:
        check_count("interval", self.interval)
        check_count("epochs", self.epochs)

    def needs(self) -> Traits:
        """Return the traits with `interval` in."""
        return replace(self.traits, history_interval=self.interval)

    def serve(self, session: Session) -> StateDict:
        """Replay the kept rounds without the forgotten clients.

        Raises:
            InputError: a round to replay was not kept, or no remaining client took part in any.
        """
        rounds = replayed(rounds_run(session.history), self.interval)
        missing = sorted(set(rounds) - set(session.history.rounds()))
        if missing or not rounds:
            raise InputError(
                f"federaser: the updates of round {missing[0] if missing else 1} were not kept; keep history while "
                "training (set the method to federaser, and its interval, from the start), or use negate, fedquit or "
                "retrain"
            )
        state, names = session.history.model(1), parameter_names(session.fresh(session.seed))
        replay = 0
        for number in rounds:
            clients = [c for c in session.remaining if session.history.update(number, c) is not None]
            if clients:
                replay += 1
                first = number == 1
                state = (
                    self._first(session, state, clients)
                    if first
                    else self._next(session, state, number, clients, names)
                )
        if not replay:
            raise InputError("federaser: no remaining client took part in a kept round; use retrain")
        return state

    def exchanges(self, outlook: Outlook) -> tuple[Exchange, ...]:
        """A short training for each saved round after the first, by the remaining clients that took part in it."""
        rounds = replayed(rounds_run(outlook.history), self.interval)[1:]
        clients = [
            tuple(c for c in outlook.remaining if c in outlook.history.participants(number)) for number in rounds
        ]
        return tuple(Exchange("train", asked, config=("epochs",), passes=self.epochs) for asked in clients if asked)

    def _first(self, session: Session, state: StateDict, clients: Sequence[int]) -> StateDict:
        mean = StateMean()
        for client in clients:
            update = session.history.update(1, client)
            if update is not None:
                mean.add(update, session.num_examples[client])
        return moved(state, mean.result())

    def _next(
        self, session: Session, state: StateDict, number: int, clients: Sequence[int], names: frozenset[str]
    ) -> StateDict:
        updates, buffers = StateMean(), StateMean()
        for reply in session.run("train", clients, state, epochs=self.epochs):
            stored = session.history.update(number, reply.client)
            if stored is None:
                raise FedquitError(f"federaser: client {reply.client} answered, but was not asked")
            fresh = difference(reply.state, state, names)
            kept = {name: value for name, value in stored.items() if name in names}
            updates.add(calibrated(kept, fresh), reply.num_examples)
            buffers.add({n: v for n, v in reply.state.items() if n not in names}, reply.num_examples)
        return {**moved(state, updates.result()), **buffers.result()}
