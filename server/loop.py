"""The one loop: train, forget, recover, retrain, from whatever round a run has reached.

Flower's `Strategy.start` counts from round 1 and knows neither exclusion nor resuming; this loop calls the same
`configure_train` and `aggregate_train`, and after every round makes the new state durable. All random choices
come from seeds derived from the run's seed, the phase, the round and the client, so a run that was killed
anywhere ends with the model it would have ended with.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from fedquit.client.device import initial_model
from fedquit.client.settings import Settings
from fedquit.errors import InputError
from fedquit.server.folder import RunFolder
from fedquit.server.judge import Judge, tensors_of
from fedquit.server.state import Round, State
from fedquit.strategies.forget import Forget
from fedquit.strategies.metered import MeteredGrid
from fedquit.strategies.train import Train
from fedquit.unlearning.methods import Kept, make_method, server_method
from fedquit.unlearning.recovery import Budget, Oracle, StopRule, Utility

Arrays = Mapping[str, NDArray[Any]]
Listener = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Phase:
    """Ordinary rounds from the model of one stage to that of another.

    Attributes:
        name: as in events and accounts.
        start: stage that it starts from; `result`: stage that it ends in.
        seed: of its clients and samplings.
        excluded: clients that do not take part.
        rounds_before: rounds that the starting model has been trained for (the learning-rate schedule goes on).
    """

    name: str
    start: str
    result: str
    seed: int
    excluded: tuple[int, ...] = ()
    rounds_before: int = 0


def reference_name(number: int) -> str:
    """Return the stage of retrained model `number`.

    >>> reference_name(0), reference_name(2)
    ('retrained', 'retrained-2')
    """
    return "retrained" if number == 0 else f"retrained-{number}"


def phases(settings: Settings) -> list[Phase]:
    """Return the phases of a run in order; `forget` marks the request.

    The oracle rule compares recovery with the retrained model, which must then come first.
    """
    leavers = settings.forget
    restarts = make_method(settings.method, **settings.method_options()).traits.restarts
    references = [
        Phase(
            name="retrain" if number == 0 else f"retrain-{number}",
            start=initial_name(number),
            result=reference_name(number),
            seed=settings.seed + number,
            excluded=leavers,
        )
        for number in range(settings.references if settings.reference == "retrain" else 0)
    ]
    train = Phase("train", "initial", "original", settings.seed)
    forget = Phase("forget", "original", "unlearned", settings.seed, (), settings.rounds)
    before = 0 if restarts else settings.rounds
    recover = Phase("recover", "unlearned", "recovered", settings.seed, leavers, before)
    if settings.recover == "oracle":
        return [train, *references, forget, recover]
    return [train, forget, recover, *references]


def initial_name(number: int) -> str:
    """Return the stage of the untrained model that reference `number` starts from."""
    return "initial" if number == 0 else f"initial-{number}"


class Loop:
    """A run in progress.

    Args:
        grid: carries the messages.
        settings: what the run was told.
        folder: where it is kept.
        listener: told of every event as it happens.
    """

    def __init__(self, grid: MeteredGrid, settings: Settings, folder: RunFolder, listener: Listener) -> None:
        self.settings, self.folder, self.listener = settings, folder, listener
        self.traits = make_method(settings.method, **settings.method_options()).traits
        self.phases = phases(settings)
        self.state = folder.load_state()
        self.judge = Judge(settings)
        self.grid = grid
        clients = sorted(member.client for member in self.grid.members.values())
        if clients != list(range(settings.clients)):
            raise InputError(f"clients: {settings.clients} are needed, {len(clients)} are connected")

    def run(self) -> State:
        """Carry out the phases that are not over yet, and return the final state."""
        self._tell("start" if not self.state.rounds else "resume", rounds=len(self.state.rounds))
        for phase in self.phases:
            if phase.name in self.state.ended:
                continue
            self._ensure_start(phase)
            if phase.name == "forget":
                self._forget(phase)
            else:
                self._rounds(phase)
        self._tell("end", models=self.state.models)
        return self.state

    def _ensure_start(self, phase: Phase) -> None:
        """Make the untrained model that a phase starts from, if it is not there."""
        if phase.start not in self.state.models:
            model = initial_model(self.settings, phase.seed)
            arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
            self.state = self.state.with_model(phase.start, self.folder.save_model(arrays))

    def _rounds(self, phase: Phase) -> None:
        """Train until the phase's rule says stop, from the round it has reached."""
        rule = self._rule(phase)
        strategy = Train(
            self.grid, seed=phase.seed, fraction=self.settings.fraction, on_reply=self._on_reply(phase.name)
        )
        arrays: Arrays = self.folder.load_model(self.state.current or self.state.models[phase.start])
        self._tell("phase", phase=phase.name, at_most=rule.max_rounds, done=len(self.state.of(phase.name)))
        while True:
            done = self.state.of(phase.name)
            stopped = rule.stop(
                [r.measures["holdout_accuracy"] for r in done], sum(r.bytes_down + r.bytes_up for r in done)
            )
            if stopped:
                break
            number = phase.rounds_before + len(done) + 1
            lr = self.settings.lr * self.settings.lr_decay ** (number - 1)
            arrays, finished = self._round(strategy, phase, number, arrays, {"lr": lr})
            self._checkpoint(self.state.with_round(finished, self.folder.save_model(arrays)), finished)
        model = self.state.current or self.state.models[phase.start]
        self._end(phase, model, stopped.reason, reached=stopped.reached)

    def _rule(self, phase: Phase) -> StopRule:
        settings = self.settings
        if phase.name != "recover" or phase.rounds_before == 0:
            return Budget(rounds=settings.rounds)
        if settings.recover == "budget":
            return Budget(rounds=settings.recover_rounds, num_bytes=settings.recover_bytes or None)
        if settings.recover == "oracle":
            target = self.state.of("retrain")[-1].measures["holdout_accuracy"]
            return Oracle(target=target, max_rounds=settings.recover_rounds)
        return Utility(
            reference=self.state.of("train")[-1].measures["holdout_accuracy"],
            tolerance=settings.tolerance,
            patience=settings.patience,
            max_rounds=settings.recover_rounds,
        )

    def _forget(self, phase: Phase) -> None:
        """Carry out the request, on the devices that ask or at the server, as the method says."""
        done = len(self.state.of(phase.name))
        self._tell("phase", phase=phase.name, at_most=1, done=done, clients=list(self.settings.forget))
        if not done:
            self._carry_out(phase)
        self._end(phase, self.state.current or "", f"{self.settings.method} done", reached=True)

    def _carry_out(self, phase: Phase) -> None:
        current = self.folder.load_model(self.state.models[phase.start])
        if self.traits.runs_at == "device":
            strategy = Forget(self.grid, self.settings.forget, seed=phase.seed, on_reply=self._on_reply(phase.name))
            arrays, finished = self._round(strategy, phase, phase.rounds_before, current, {})
        else:
            arrays, finished = self._forget_at_server(phase, current)
        self._checkpoint(self.state.with_round(finished, self.folder.save_model(arrays)), finished)

    def _forget_at_server(self, phase: Phase, current: Arrays) -> tuple[Arrays, Round]:
        started = time.perf_counter()
        method = server_method(self.settings.method, **self.settings.method_options())
        kept = Kept(initial=tensors_of(self.folder.load_model(self.state.models["initial"])))
        unlearned = method.forget(tensors_of(current), kept)
        arrays = {name: tensor.numpy() for name, tensor in unlearned.items()}
        seconds = time.perf_counter() - started
        return arrays, Round(phase.name, phase.rounds_before, 0, 0, 0.0, self.judge(arrays), 0, 0, seconds)

    def _round(
        self, strategy: Train, phase: Phase, number: int, arrays: Arrays, config: dict[str, float]
    ) -> tuple[Arrays, Round]:
        """Send a round's messages, and return the new model and what the round was."""
        started = time.perf_counter()
        self.grid.begin(phase.name, number, phase.excluded)
        new, metrics = strategy.round(number, arrays, config)
        seconds = time.perf_counter() - started
        traffic = strategy.costs.of(phase.name, number)
        return new, Round(
            phase=phase.name,
            number=number,
            clients=int(metrics["clients"]),
            refused=int(metrics["refused"]),
            loss=metrics["loss"],
            measures=self.judge(new),
            bytes_down=traffic.down,
            bytes_up=traffic.up,
            seconds=seconds,
        )

    def _end(self, phase: Phase, model: str, reason: str, *, reached: bool) -> None:
        state = self.state.with_end(phase.name, phase.result, model, reason, reached=reached)
        event = {
            "phase": phase.name,
            "stage": phase.result,
            "model_sha256": model,
            "reason": reason,
            "reached": reached,
        }
        self._save(state, self._tell("phase-end", **event))

    def _checkpoint(self, state: State, finished: Round) -> None:
        event = {
            "phase": finished.phase,
            "round": finished.number,
            "clients": finished.clients,
            "refused": finished.refused,
            "loss": finished.loss,
            **finished.measures,
            "bytes_down": finished.bytes_down,
            "bytes_up": finished.bytes_up,
            "seconds": finished.seconds,
            "model_sha256": state.current,
        }
        self._save(state, self._tell("round", **event))

    def _save(self, state: State, events_size: int) -> None:
        self.state = replace(state, events_size=events_size)
        self.folder.save_state(self.state)

    def _tell(self, event: str, **facts: Any) -> int:
        """Write an event to the journal and tell the listener; return the journal's size."""
        line = {"time": time.time(), "event": event, **facts}
        size = self.folder.append_event(line)
        self.listener(line)
        return size

    def _on_reply(self, phase: str) -> Callable[[int, str | None], None]:
        def told(client: int, refused: str | None) -> None:
            if refused:
                self._tell("refused", phase=phase, client=client, reason=refused)
            else:
                self.listener({"event": "reply", "phase": phase, "client": client})

        return told
