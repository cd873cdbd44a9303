"""The one loop: train, forget, recover, retrain, from whatever round a run has reached.

Flower's `Strategy.start` counts from round 1 and knows neither exclusion nor resuming; this loop calls the same
`configure_train` and `aggregate_train`, and after every round makes the new state durable. All random choices
come from seeds derived from the run's seed, the phase, the round and the client, so a run that was killed
anywhere ends with the model it would have ended with.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import pairwise
from typing import Any

from fedquit.client.compression.build_compression import compression_of
from fedquit.client.data.build_data_and_model import empty_model, form_of, initial_model
from fedquit.client.data.evaluation_sets import sets_of
from fedquit.client.data.forget_sets import askers, forgotten_clients
from fedquit.client.objectives import Sharing, progress
from fedquit.client.personal.personal_evaluation import mean_of
from fedquit.client.personal.personal_models import own_model
from fedquit.client.training.build_method import method_of
from fedquit.client.training.build_objective import objective_of
from fedquit.documents import Listener
from fedquit.errors import FedquitError, InputError, NoReplyError
from fedquit.server.lifecycle.build_rules import rules_of
from fedquit.server.lifecycle.forget_and_admit import Guard, forget_and_admit
from fedquit.server.lifecycle.grid_session import Case, GridSession, simulated_case
from fedquit.server.lifecycle.observed_rounds import NORM, SPREAD, WINDOW, ObservedRound, recent_rounds, round_limits
from fedquit.server.lifecycle.personal_reports import Devices, measures_by_client
from fedquit.server.lifecycle.phases import Phase, nth, phases
from fedquit.server.lifecycle.recovery_plan import RecoveryPlan, stop_rule
from fedquit.server.lifecycle.round_evaluation import HeldOut, usable
from fedquit.server.lifecycle.train_round import Callbacks, Order, RoundState, correction, train_round
from fedquit.server.lifecycle.training_history import History, Keep, check_room
from fedquit.server.run.run_folder import RunFolder
from fedquit.server.run.run_state import Round, State
from fedquit.settings import Settings
from fedquit.strategies.cost_log.cost_log import Costs
from fedquit.strategies.cost_log.cost_rows import DIRECTIONS
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.guard.decide import Policy
from fedquit.strategies.guard.round_screen import Limits
from fedquit.strategies.guard.step_checks import Bounds, Recent, bounds_of
from fedquit.strategies.rounds.train import Correct
from fedquit.unlearning.stop_rules import Budget, StopRule
from fedquit.unlearning.tensors.arithmetic import parameter_names
from fedquit.unlearning.tensors.convert import Arrays, StateDict, arrays_of, tensors_of


class Loop:
    """A run in progress.

    Args:
        grid: carries the messages.
        settings: what the run was told.
        folder: where it is kept.
        listener: told of every event as it happens.
        keep: what to keep of training, if not just what the run's own method needs.
    """

    def __init__(
        self, grid: MeteredGrid, settings: Settings, folder: RunFolder, listener: Listener, keep: Keep | None = None
    ) -> None:
        self.settings, self.folder, self.listener = settings, folder, listener
        self.method, self.objective = method_of(settings), objective_of(settings)
        self.phases, self.rules = phases(settings), rules_of(settings)
        self.policy = Policy(settings.guard, settings.blend)
        self.state = folder.load_state()
        keep = keep or Keep.of(self.method.needs())
        self._log = {r.number: r.participants for r in self.state.of("train")}
        self.history = History(folder.path, keep, settings.clients, lambda number: self._log.get(number, ()))
        self.traits, self.grid = self.objective.needs(), grid
        self.sharing = self._sharing()
        self.devices = Devices(grid, settings, self._on_reply("evaluate"))
        is_global = self.traits.shares == "model"
        self.evaluator = HeldOut(settings) if is_global else None
        self.names = parameter_names(empty_model(settings.key())) if is_global else frozenset[str]()
        self.grid.costs, self.grid.compression = Costs(folder.costs_file), compression_of(settings)
        clients = sorted(member.client for member in self.grid.members.values())
        if clients != list(range(settings.clients)):
            raise InputError(f"clients: {settings.clients} are needed, {len(clients)} are connected")

    def _sharing(self) -> Sharing:
        """Return what the objective shares with devices, and how."""
        if not self.traits.owns:
            return Sharing()
        return self.objective.sharing(own_model(self.settings, 0, 0), form_of(self.settings).num_classes)

    def run(self, only: Collection[str] | None = None) -> State:
        """Carry out the phases that are not over yet, or those of `only` among them, and return the state.

        Where the guard refuses a method's model, the run is over: what would come after starts from that model.

        Raises:
            InputError: `only` leaves out what one of its phases needs, or a phase that is begun.
        """
        self._tell("start" if not self.state.rounds else "resume", rounds=len(self.state.rounds))
        left = [phase for phase in self.phases if phase.name not in self.state.ended]
        ended = len(self.state.ended)
        begun = next((phase.name for phase in left if self.state.of(phase.name)), None)
        if begun and only is not None and begun not in only:
            raise InputError(f"phase '{begun}' is begun and not over: it must be carried out first")
        for phase in left:
            self._clean_history()
            if only is not None and phase.name not in only:
                continue
            if self.state.refused:
                break
            self._ensure_start(phase)
            if phase.kind == "forget":
                self._forget(phase)
            else:
                self._rounds(phase)
        self._clean_history()
        if len(self.state.ended) > ended:
            self._save(self.state, self._tell("end", models=self.state.models))
        return self.state

    def _clean_history(self) -> None:
        """Remove what was kept of training and contains what has been erased; all of it once no request is left."""
        done = sum(nth("recover", i) in self.state.ended for i in range(self.settings.num_requests))
        gone = {client for request in range(done) for client in askers(self.settings, request)}
        stale = self.history.stale(gone, everything=done == self.settings.num_requests)
        if stale:  # told of first, so that no removal goes untold; after a kill it may be told twice
            size = sum(file.stat().st_size for file in stale)
            self._save(self.state, self._tell("purge", files=len(stale), bytes=size))
            self.history.remove(stale)

    def _ensure_start(self, phase: Phase) -> None:
        """Make the untrained model that a phase starts from, if it is not there."""
        if phase.start in self.state.models:
            return
        if not phase.start.startswith("initial"):
            raise InputError(f"phase '{phase.name}' starts from the {phase.start} model, which is not there yet")
        weights: StateDict = {}
        if self.traits.shares == "model":
            weights = initial_model(self.settings, self.settings.seed_of_model + phase.reference).state_dict()
        self.state = self.state.with_model(phase.start, self.folder.save_model(arrays_of(weights)))

    def _rounds(self, phase: Phase) -> None:
        """Train until the phase's rule says stop, from the round it has reached."""
        rule, before = self._rule(phase), self._reached(phase.after)
        arrays: Arrays = self.folder.load_model(self.state.current or self.state.models[phase.start])
        if phase.kind == "train":
            check_room(self.settings, self.history.keep, tensors_of(arrays))
        most = rule.max_rounds if rule else 0
        self._tell("phase", phase=phase.name, at_most=most, done=len(self.state.of(phase.name)))
        if rule is None:
            self._end(phase, self.state.models[phase.start], "the budget was spent before", reached=False)
            return
        correct = self._correction(phase)
        while True:
            done = self.state.of(phase.name)
            stopped = rule.stop([r.measures["holdout_accuracy"] for r in done], _bytes(done))
            if stopped:
                break
            arrays = self._round(phase, before + len(done) + 1, arrays, correct)
        model = self.state.current or self.state.models[phase.start]
        self._end(phase, model, stopped.reason, reached=stopped.reached)

    def _rule(self, phase: Phase) -> StopRule | None:
        """Return when a phase ends; None: before it begins."""
        if phase.kind == "recover":
            plan = self._plan(phase)
            return stop_rule(plan, self._reference(phase, plan))
        rounds = self._rounds_left(phase) if phase.kind == "later" else self.settings.rounds
        return Budget(rounds=rounds) if rounds else None

    def _plan(self, phase: Phase) -> RecoveryPlan:
        """Return what recovery is to reach; after a method that restarts, as many rounds as the model had."""
        settings = self.settings
        if self.method.traits.restarts:
            return RecoveryPlan("budget", settings.rounds - self._reached(phase.after))
        return RecoveryPlan(
            settings.recover, settings.recover_rounds, settings.recover_bytes, settings.tolerance, settings.patience
        )

    def _reference(self, phase: Phase, plan: RecoveryPlan) -> float | None:
        """Return the accuracy to reach; None: the plan asks for none."""
        if plan.rule == "budget":
            return None
        if plan.rule == "oracle":
            return self.state.of("retrain")[-1].measures["holdout_accuracy"]
        before = next(other for other in self.phases if other.name == phase.after)
        return self._accuracy(before.start)

    def _accuracy(self, stage: str) -> float:
        """Return the held-out accuracy of a stage: of its model, or the mean over what devices said of theirs."""
        if self.evaluator is None:
            return mean_of(measures_by_client(self.state.devices[stage]))["holdout_accuracy"]
        return self.evaluator(self.folder.load_model(self.state.models[stage]))["holdout_accuracy"]

    def _rounds_left(self, phase: Phase) -> int:
        """Return how many more rounds the budget has bytes for, at the bytes of the last round of recovery."""
        recover = self.state.of(phase.after)
        spent = _bytes(recover) + _bytes(self.state.of(nth("forget", phase.requests - 1)))
        each = _bytes(recover[-1:])
        return max(0, (self.settings.budget * each - spent) // each)

    def _reached(self, phase: str) -> int:
        """Return how many rounds the model at the end of a phase has been trained for."""
        rounds = self.state.of(phase)
        return rounds[-1].number if rounds else 0

    def _lr(self, number: int) -> float:
        """Return the learning rate of a round: the schedule goes on after a request."""
        return float(self.settings.lr * self.settings.lr_decay ** (number - 1))

    def _correction(self, phase: Phase) -> Correct | None:
        """Return what the method does to the models of a recovery round, if it does anything."""
        if phase.kind != "recover":
            return None
        asked = next(other for other in self.phases if other.name == phase.after)
        return correction(self.method, lambda: self._model(asked.start), lambda: self._model(phase.start), self.names)

    def _round(self, phase: Phase, number: int, arrays: Arrays, correct: Correct | None) -> Arrays:
        """Carry out one round, make it durable and return the new model."""
        keeps, sent = phase.kind == "train", tensors_of(arrays)
        if keeps:
            self.history.begin(number, sent)
        history = self.history if keeps and self.history.keep.updates(number) else None
        observed = ObservedRound(sent, self.names, history=history, number=number, norms=self._is_watched(phase))
        self.grid.begin(phase.name, number, forgotten_clients(self.settings, phase.requests))
        objective_state, optimizer_state = (
            self.folder.load_model(name) if name else None for name in (self.state.beside, self.state.moments)
        )
        done = train_round(
            self.grid,
            self.order(phase, number),
            arrays,
            RoundState(objective_state, optimizer_state),
            objective=self.objective,
            rule=self.rules.of(phase),
            names=self.names,
            correct=correct,
            callbacks=Callbacks(self._on_reply(phase.name), observed.take),
            sharing=self.sharing if self.traits.owns else None,
            limits=self._limits(arrays),
        )
        norms = observed.statistics()
        finished = Round(
            phase.name,
            number,
            exchanges=1,
            participants=tuple(done.taken),
            refused=done.refused,
            loss=done.loss,
            seconds=done.seconds,
            device_seconds=done.device_seconds,
            measures=dict(done.measures),
            update_norm=norms.get(NORM),
            update_norm_mad=norms.get(SPREAD),
        )
        if not done.adopted:
            self._tell("not-adopted", phase=phase.name, round=number, reason=done.off)
        self._checkpoint(phase, done.arrays, finished, number, done.state)
        if keeps:
            self._log[number] = finished.participants
            self.history.end(number)
        return done.arrays

    def _limits(self, arrays: Arrays) -> Limits | None:
        """Return how much one reply may do to a round, if the run was told to bound that."""
        settings = self.settings
        if not (settings.weight_cap or settings.clip_steps or settings.accuracy_floor):
            return None
        return round_limits(
            settings,
            self.folder.path / "replies",
            [finished.measures for finished in self.state.rounds[-WINDOW:]],
            {member.client: member.num_examples for member in self.grid.members.values()},
            usable(settings, arrays, sets_of(settings).holdout, settings.accuracy_floor),
        )

    def order(self, phase: Phase, number: int) -> Order:
        """Return what a round is to be; devices hear of the phase only where they keep something between rounds."""
        config: dict[str, float | str] = {"requests": phase.requests}
        if self.traits.owns:
            config |= self.devices.config(phase)
        elif self.traits.keeps != "nothing" or self.grid.compression.keeps:
            config["phase"] = phase.name
        done = self.state.of(phase.name)
        return Order(
            phase=phase.name,
            number=number,
            nth=len(done) + 1,
            seed=phase.seed,
            lr=self._lr(number),
            config=config,
            fraction=self.settings.fraction,
            progress=progress(number, self.settings.rounds),
            before=done[-1].participants if done else (),
        )

    def _model(self, stage: str) -> StateDict:
        """Return the model of a stage, its entries in the order of the layers: a file has an order of its own."""
        return self._checkpointed(self.state.models[stage])

    def _checkpointed(self, name: str) -> StateDict:
        state = tensors_of(self.folder.load_model(name))
        if self.traits.shares != "model":
            return state
        return {name: state[name] for name in empty_model(self.settings.key()).state_dict()}

    def _forget(self, phase: Phase) -> None:
        """Carry out a request, on the devices that ask or at the server, as the method says."""
        done, clients = len(self.state.of(phase.name)), askers(self.settings, phase.requests - 1)
        self._tell("phase", phase=phase.name, at_most=1, done=done, clients=list(clients))
        if not done:
            self._carry_out(phase)
        if self.state.refused:
            return
        self._end(phase, self.state.current or "", f"{self.settings.method} done", reached=True)

    def _carry_out(self, phase: Phase) -> None:
        started, number = time.perf_counter(), self._reached(phase.after)
        self.grid.begin(phase.name, number)
        case = self.case(phase, number)
        guard = self._guard(phase, case)
        session = GridSession(
            self.grid,
            self.settings,
            case,
            initial=self._model("initial"),
            current=self.sharing.without(self._model(phase.start), askers(self.settings, phase.requests - 1)),
            history=self.history,
            lr=self._lr(number + 1),
            on_reply=self._on_reply(phase.name),
            check=None if guard is None else guard.check,
        )
        try:
            done = forget_and_admit(self.method, session, guard)
        except NoReplyError as error:
            raise FedquitError(f"{error}; --resume asks again") from error
        finished = Round(
            phase.name,
            number if done.restart_round is None else done.restart_round - 1,
            exchanges=session.exchanges,
            participants=tuple(sorted(session.answered)),
            refused=len(session.reasons),
            loss=session.loss,
            seconds=time.perf_counter() - started,
            device_seconds=session.device_seconds,
        )
        if done.decision is not None:
            document = done.decision.document()
            self.state = self.state.with_guard(phase.name, phase.after, document)
            self._tell("guard", phase=phase.name, method=self.method.name, **document)
        if done.arrays is None:
            self._refuse(phase, finished, number)
        else:
            self._checkpoint(phase, done.arrays, finished, number)

    def case(self, phase: Phase, number: int) -> Case:
        """Return whom the request of a phase is about, after so many rounds."""
        return simulated_case(self.settings, phase.requests - 1, phase.name, number)

    def _guard(self, phase: Phase, case: Case) -> Guard | None:
        """Return the guard of a request; None: no model is shared that it could look at."""
        if self.evaluator is None:
            return None
        return Guard(self._recent(phase), self._bounds(phase, case), self.policy, self.evaluator.accuracy)

    def _refuse(self, phase: Phase, finished: Round, accounted: int) -> None:
        """End a request whose model the guard refused; what it cost counts, and the model stays what it was."""
        traffic = self.grid.costs.of(phase.name, accounted)
        finished = replace(finished, bytes_down=traffic.down, bytes_up=traffic.up)
        reason = f"refused by the guard: {self.state.guard[phase.name]['off']}"
        self.state = self.state.with_refusal(phase.name, finished, reason)
        model = self.state.models[phase.start]
        event = {"phase": phase.name, "stage": phase.start, "model_sha256": model, "reason": reason, "reached": False}
        self._save(self.state, self._tell("phase-end", **event))

    def _is_watched(self, phase: Phase) -> bool:
        """Say whether the guard may compare the model of a request with the rounds of a phase."""
        before_another = phase.kind == "recover" and phase.requests < self.settings.num_requests
        return self.evaluator is not None and (phase.kind == "train" or before_another)

    def _bounds(self, phase: Phase, case: Case) -> Bounds:
        asked = self.settings.forget_class[phase.requests - 1] if self.settings.forget_class else ()
        sizes = [case.num_examples[client] for client in case.forgotten]
        return bounds_of(self.method, self.names, sizes, asked, exact=self.grid.compression.exact)

    def _recent(self, phase: Phase) -> Recent:
        """Return what the guard compares the model of a request with: the last rounds of the phase before it."""
        models = [self._checkpointed(name) for name in self.state.recent.get(phase.after, ())]
        last = [finished.norms for finished in self.state.of(phase.after)[-WINDOW:]]
        every = [finished.norms for finished in self.state.rounds]
        return recent_rounds(last, every, pairwise(models), models[0].keys() if models else ())

    def _end(self, phase: Phase, model: str, reason: str, *, reached: bool) -> None:
        state = self.state.with_end(phase.name, phase.result, model, reason, reached=reached)
        if self.traits.owns:
            number = self._reached(phase.name) or self._reached(phase.after)
            state = state.with_devices(phase.result, self.devices.stage(phase, number))
        event = {
            "phase": phase.name,
            "stage": phase.result,
            "model_sha256": model,
            "reason": reason,
            "reached": reached,
        }
        self._save(state, self._tell("phase-end", **event))

    def _measures(self, phase: Phase, new: Arrays, number: int) -> dict[str, float]:
        """Return the accuracies after a round: of the global model, or the mean over devices of their own."""
        return self.devices.round(phase, number) if self.evaluator is None else self.evaluator(new)

    def _checkpoint(
        self, phase: Phase, new: Arrays, finished: Round, accounted: int, round_state: RoundState | None = None
    ) -> None:
        """Measure a new model, add what the messages of round `accounted` cost, and make both durable."""
        traffic = self.grid.costs.of(finished.phase, accounted)
        errors = {way: self.grid.compression_error(way) for way in DIRECTIONS}
        finished = replace(
            finished,
            measures={**self._measures(phase, new, finished.number), **finished.measures},
            bytes_down=traffic.down,
            bytes_up=traffic.up,
            compression_error_down=errors["down"],
            compression_error_up=errors["up"],
        )
        parts = (round_state.objective_state, round_state.optimizer_state) if round_state else ()
        objective_state = (None if arrays is None else self.folder.save_model(arrays) for arrays in parts)
        before = self.state.current or self.state.models[phase.start]
        state = self.state.with_round(finished, self.folder.save_model(new), *objective_state)
        if self._is_watched(phase):
            state = state.with_recent(phase.name, before, WINDOW)
        event = {
            "phase": finished.phase,
            "round": finished.number,
            "clients": len(finished.participants),
            "refused": finished.refused,
            "loss": finished.loss,
            **finished.measures,
            "bytes_down": finished.bytes_down,
            "bytes_up": finished.bytes_up,
            **{f"compression_error_{way}": error for way, error in errors.items() if error is not None},
            "seconds": finished.seconds,
            "device_seconds": finished.device_seconds,
            "model_sha256": state.current,
        }
        self._save(state, self._tell("round", **event))

    def _save(self, state: State, events_size: int) -> None:
        costs = self.grid.costs.sync()
        self.state = replace(state, events_size=events_size, costs_size=costs.size, costs_tail=costs.tail)
        self.folder.save_state(self.state)

    def _tell(self, event: str, **facts: Any) -> int:
        """Write an event to the journal and tell the listener; return the journal's size."""
        line = {"time": time.time(), "event": event, **facts}
        size = self.folder.append_event(line)
        self.listener(line)
        return size

    def _on_reply(self, phase: str) -> Callable[[int, str | None], None]:
        def on_reply(client: int, refused: str | None) -> None:
            if refused:
                self._tell("refused", phase=phase, client=client, reason=refused)
            else:
                self.listener({"event": "reply", "phase": phase, "client": client})

        return on_reply


def _bytes(rounds: Collection[Round]) -> int:
    return sum(r.bytes_down + r.bytes_up for r in rounds)
