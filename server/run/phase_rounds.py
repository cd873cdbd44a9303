"""A phase of rounds: training, recovery, or retraining without the data; round by round until its goal is reached."""

from fedquit.client.data.forget_sets import forgotten_clients
from fedquit.server.lifecycle.rounds.carry_out_round import RoundPlan
from fedquit.server.lifecycle.rounds.deferred_step import DeferredStep, is_deferred
from fedquit.server.lifecycle.rounds.round_order import Order, round_order
from fedquit.server.lifecycle.rounds.train_round import Callbacks, correction
from fedquit.server.lifecycle.training_history import check_room
from fedquit.server.run.phase_goal import goal_of, payload
from fedquit.server.run.phases import Phase, nth
from fedquit.server.run.run_store import PhaseStore
from fedquit.server.run.simulated_run import SimulatedRun
from fedquit.strategies.rounds.train import Correct
from fedquit.unlearning.tensors.convert import tensors_of


class PhaseRounds:
    """The rounds of one phase of a simulation."""

    def __init__(self, run: SimulatedRun, phase: Phase) -> None:
        self.run, self.phase = run, phase
        self._defers = phase.kind == "recover" and is_deferred(run.settings.adopt, run.method)
        adopts = nth("adopted", phase.requests - 1) if self._defers else ""
        every = phase.matches and run.store.state.rounds_since_training(run.settings.num_requests) is None
        self.store = PhaseStore(run.store, phase, run.is_remembered(phase), adopts, every)

    def carry_out(self) -> None:
        """Train until the phase's goal is reached, from the round that it has reached."""
        run, phase, store = self.run, self.phase, self.run.store
        goal, before = goal_of(run, phase), store.trained(phase.after)
        if phase.kind == "train":
            check_room(run.settings, run.history.keep, tensors_of(self.store.model()))
        most = goal.max_rounds if goal else 0
        store.emit("phase", phase=phase.name, at_most=most, done=len(store.state.of(phase.name)))
        if goal is None:
            reason = "it has as many rounds" if phase.matches else "the budget was spent before"
            run.end(phase, store.state.models[phase.start], reason, reached=False)
            return
        correct = self._correction()
        while True:
            done = store.state.of(phase.name)
            stopped = goal.stop([finished.measures["holdout_accuracy"] for finished in done], payload(done))
            if stopped:
                break
            run.rounds.carry_out(self._plan(before + len(done) + 1, correct), self.store)
        model = store.state.current or store.state.models[phase.start]
        run.end(phase, model, stopped.reason, reached=stopped.reached)

    def order(self, number: int) -> Order:
        """Return what round `number` is to be; devices get the phase only where they keep state between rounds."""
        run, phase = self.run, self.phase
        config: dict[str, float | str] = {"requests": phase.requests}
        if run.traits.owns:
            config |= run.devices.config(phase)
        elif run.traits.keeps != "nothing" or run.grid.compression.keeps:
            config["phase"] = phase.name
        done = run.store.state.of(phase.name)
        return round_order(
            run.settings,
            phase.name,
            number,
            nth=len(done) + 1,
            seed=phase.seed,
            trained=number - 1,
            config=config,
            before=done[-1].participants if done else (),
            draws=phase.draws,
        )

    def _plan(self, number: int, correct: Correct | None) -> RoundPlan:
        run, phase, settings, trains = self.run, self.phase, self.run.settings, self.phase.kind == "train"
        bounded = settings.weight_cap or settings.clip_steps or settings.accuracy_floor
        return RoundPlan(
            self.order(number),
            trained=number,
            rule=run.rules.after(run.method if phase.recovers else None),
            evaluate=lambda done: run.metrics(phase, done.arrays, number),
            left_out=forgotten_clients(settings, phase.requests),
            correct=correct,
            history=run.history if trains else None,
            keeps_updates=trains and run.history.keep.updates(number),
            measures_norms=self.store.remembers,
            screen=run.held_out if bounded else None,
            deferred=self._deferred(),
            callbacks=Callbacks(run.store.on_reply(phase.name)),
        )

    def _deferred(self) -> DeferredStep | None:
        """Return the unlearning step that waits for a round; None: none does."""
        run, store = self.run, self.run.store
        if not self._defers or store.state.current not in (None, store.state.models[self.phase.start]):
            return None
        return DeferredStep(store.stage(run.phase(self.phase.after).start), store.stage(self.phase.start), run.names)

    def _correction(self) -> Correct | None:
        """Return what the method does to the models of a recovery round; None: nothing."""
        run, phase = self.run, self.phase
        if phase.kind != "recover":
            return None
        before = run.phase(phase.after).start
        return correction(run.method, lambda: run.store.stage(before), lambda: run.store.stage(phase.start), run.names)
