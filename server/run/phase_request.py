"""The phase that serves a request, on the devices that ask or at the server, as the method says."""

import time
from dataclasses import replace

from fedquit.client.data.forget_sets import askers
from fedquit.errors import FedquitError, NoReplyError
from fedquit.server.lifecycle.forget_and_admit import ForgetResult, Guard, forget_and_admit
from fedquit.server.lifecycle.grid_session import Case, GridSession
from fedquit.server.lifecycle.rounds.finished_round import FinishedRound, finished_request
from fedquit.server.lifecycle.rounds.round_order import learning_rate
from fedquit.server.lifecycle.rounds.train_round import RoundState
from fedquit.server.run.phases import Phase
from fedquit.server.run.run_store import round_of
from fedquit.server.run.simulated_case import simulated_case
from fedquit.server.run.simulated_run import SimulatedRun
from fedquit.strategies.guard.decide import Policy
from fedquit.strategies.guard.step_checks import bounds_of


class PhaseRequest:
    """One request of a simulation."""

    def __init__(self, run: SimulatedRun, phase: Phase) -> None:
        self.run, self.phase, self.store = run, phase, run.store
        self.clients = askers(run.settings, phase.requests - 1)

    def carry_out(self) -> None:
        """Serve the request, if that is not done yet, and end the phase."""
        phase, done = self.phase, len(self.store.state.of(self.phase.name))
        self.store.emit("phase", phase=phase.name, at_most=1, done=done, clients=list(self.clients))
        if not done:
            self._serve()
        if not self.store.state.refused:
            reason = f"{self.run.settings.method} done"
            self.run.end(phase, self.store.state.current or "", reason, reached=True)

    def case(self, trained: int) -> Case:
        """Return whom the request is about, after `trained` rounds."""
        return simulated_case(self.run.settings, self.phase.requests - 1, self.phase.name, trained)

    def _serve(self) -> None:
        run, phase, started = self.run, self.phase, time.perf_counter()
        trained = self.store.trained(phase.after)
        run.grid.begin(phase.name, trained)
        case = self.case(trained)
        guard = self._guard(case)
        session = self._session(case, guard, trained)
        try:
            done = forget_and_admit(run.method, session, guard)
        except NoReplyError as error:
            raise FedquitError(f"{error}; --resume repeats the request") from error
        finished = finished_request(
            run.grid,
            session,
            phase.name,
            trained,
            trained=trained if done.restart_round is None else done.restart_round - 1,
            seconds=time.perf_counter() - started,
        )
        self._store(done, finished)

    def _session(self, case: Case, guard: Guard | None, trained: int) -> GridSession:
        run = self.run
        return GridSession(
            run.grid,
            run.settings,
            case,
            initial=self.store.stage("initial"),
            current=run.sharing.without(self.store.stage(self.phase.start), self.clients),
            history=run.history,
            lr=learning_rate(run.settings, trained + 1),
            on_reply=self.store.on_reply(self.phase.name),
            check=None if guard is None else guard.check,
        )

    def _store(self, done: ForgetResult, finished: FinishedRound) -> None:
        """Store the outcome of the request; its costs count even if the guard refused its model."""
        run, phase = self.run, self.phase
        if done.decision is not None:
            document = done.decision.document()
            self.store.state = self.store.state.with_guard(phase.name, phase.after, document)
            self.store.emit("guard", phase=phase.name, method=run.method.name, **document)
        if done.arrays is None:
            reason = f"refused by the guard: {self.store.state.guard[phase.name]['off']}"
            self.store.state = self.store.state.with_refusal(phase.name, round_of(finished), reason)
            run.refuse(phase)
            return
        finished = replace(finished, metrics=run.metrics(phase, done.arrays, finished.trained))
        self.store.add(phase, finished, done.arrays, RoundState(), remembers=run.is_remembered(phase))

    def _guard(self, case: Case) -> Guard | None:
        """Return the guard of the request; None: no model is shared that it could check."""
        run, settings = self.run, self.run.settings
        if run.held_out is None:
            return None
        classes = settings.forget_class[self.phase.requests - 1] if settings.forget_class else ()
        sizes = [case.num_examples[client] for client in case.forgotten]
        bounds = bounds_of(
            run.method,
            run.names,
            sizes,
            classes,
            exact=run.grid.compression.exact,
            clip=settings.forget_clip,
            noise=settings.forget_noise,
        )
        policy = Policy(settings.guard, settings.blend)
        return Guard(self.store.recent(self.phase.after), bounds, policy, run.held_out.accuracy)
