"""Carry out a round of training or recovery, from the model that a store has to the one that it gets.

A driver gives the plan of the round (`RoundPlan`) and the store of rounds (`RoundStore`); everything in between is the
same in a simulation and a deployment.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from fedquit.client.objectives import Objective, Sharing
from fedquit.server.lifecycle.evaluator import Evaluator
from fedquit.server.lifecycle.rounds.deferred_step import DeferredStep
from fedquit.server.lifecycle.rounds.finished_round import FinishedRound, finished_round
from fedquit.server.lifecycle.rounds.observed_rounds import ObservedRound
from fedquit.server.lifecycle.rounds.round_order import Order
from fedquit.server.lifecycle.rounds.train_round import Callbacks, RoundState, Trained, train_round
from fedquit.server.lifecycle.training_history import History
from fedquit.settings import Settings
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.guard.round_screen import Limits, usual_of
from fedquit.strategies.rounds.train import Correct
from fedquit.strategies.rules import Rule
from fedquit.unlearning.tensors.convert import Arrays, tensors_of


class RoundStore(Protocol):
    """Where a driver keeps the rounds of a phase: the folder of a run, or a ledger with its folder of models."""

    @property
    def replies(self) -> Path:
        """Folder that holds a round's replies until all have arrived."""

    def model(self) -> Arrays:
        """Return the model that the phase has reached."""

    def round_state(self) -> RoundState:
        """Return what the phase's last round kept for the next one."""

    def last_checks(self) -> Sequence[Mapping[str, float]]:
        """Return what the checks on replies measured in each of the last `WINDOW` rounds, the latest last."""

    def sizes(self) -> Mapping[int, int]:
        """Return for each client the number of samples that it has counted for before."""

    def add(self, finished: FinishedRound, new: Arrays, state: RoundState) -> None:
        """Make a round, its model and its state durable: all of them, or after a crash none."""


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """What a driver decides about one round.

    Attributes:
        order: phase, number, seeds and config of the round.
        trained: how many rounds the model has been trained for, this one included.
        rule: what makes one model of the replies.
        evaluate: gives the metrics of what the round made.
        left_out: clients that do not take part.
        correct: what a method does to the models of recovery; None: nothing.
        history: keeps the model that the round begins with; None: it is no round of training.
        keeps_updates: whether the history keeps every client's update too.
        measures_norms: whether the guard may compare the model of a request with this round.
        screen: says whether the round's model can be used, and with it each reply is bounded; None: replies are added
            as they come.
        deferred: an unlearning step to add to this round; None: there is none.
        callbacks: what is called with the replies; `on_taken` is the round's own.
    """

    order: Order
    trained: int
    rule: Rule
    evaluate: Callable[[Trained], Mapping[str, float]]
    left_out: Collection[int] = ()
    correct: Correct | None = None
    history: History | None = None
    keeps_updates: bool = False
    measures_norms: bool = True
    screen: Evaluator | None = None
    deferred: DeferredStep | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)


@dataclass(frozen=True, slots=True)
class Rounds:
    """Carries out the rounds of one federation.

    Attributes:
        grid: carries the messages.
        settings: of the federation.
        objective: what devices minimise.
        names: the model's entries that are parameters, not buffers.
        sharing: what is shared, where devices train models of their own; None: the global model.
    """

    grid: MeteredGrid
    settings: Settings
    objective: Objective
    names: frozenset[str]
    sharing: Sharing | None = None

    def carry_out(self, plan: RoundPlan, store: RoundStore) -> FinishedRound:
        """Carry out a round, evaluate its model and store both.

        Raises:
            FedquitError: too few replies can be used; nothing is stored.
        """
        arrays = plan.deferred.sent() if plan.deferred else store.model()
        number, history = plan.order.number, plan.history
        sent = tensors_of(arrays)
        if history:
            history.begin(number, sent)
        observed = ObservedRound(
            sent,
            self.names,
            history=history if plan.keeps_updates else None,
            number=number,
            norms=plan.measures_norms,
        )
        self.grid.begin(plan.order.phase, number, plan.left_out)
        done = train_round(
            self.grid,
            plan.order,
            arrays,
            store.round_state(),
            objective=self.objective,
            rule=plan.rule,
            names=self.names,
            correct=plan.correct,
            callbacks=replace(plan.callbacks, on_taken=observed.take, reply_detail=observed.reply_detail),
            sharing=self.sharing,
            limits=None if plan.screen is None else self._limits(plan, plan.screen, store, arrays),
        )
        if plan.deferred:
            done = plan.deferred.added(done)
        finished = finished_round(self.grid, plan.order, done, trained=plan.trained, norms=observed.statistics())
        finished = replace(finished, metrics=plan.evaluate(done))
        store.add(finished, done.arrays, done.state)
        if history:
            history.end(number)
        return finished

    def _limits(self, plan: RoundPlan, screen: Evaluator, store: RoundStore, arrays: Arrays) -> Limits:
        return Limits(
            folder=store.replies,
            weight_cap=self.settings.weight_cap,
            clip=self.settings.clip_steps,
            usual=usual_of(store.last_checks()),
            before=store.sizes(),
            look=screen.usable(arrays),
            on_bounded=plan.callbacks.on_bounded,
        )
