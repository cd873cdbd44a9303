"""What a run has reached, and how it becomes durable: state, models, events and the cost log of its folder.

After each round the model is written first, then the event, then the state that names both; a killed run continues from
the last state.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedquit.documents import Listener
from fedquit.server.lifecycle.rounds.finished_round import FinishedRound
from fedquit.server.lifecycle.rounds.observed_rounds import NORM, SPREAD, WINDOW, recent_rounds
from fedquit.server.lifecycle.rounds.train_round import RoundState
from fedquit.server.run.phases import Phase, trained_on
from fedquit.server.run.run_folder import RunFolder
from fedquit.server.run.run_state import Round, State
from fedquit.strategies.cost_log.cost_log import Costs
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.guard.step_checks import Recent
from fedquit.strategies.rounds.reply import OnReply
from fedquit.unlearning.tensors.convert import Arrays, StateDict, tensors_of


class RunStore:
    """The state of a run in its folder.

    Args:
        folder: of the run.
        grid: gets the cost log of the folder.
        listener: called with every event as it happens.
        entries: of the model, in the order of its layers; (): in that of the file.
    """

    def __init__(self, folder: RunFolder, grid: MeteredGrid, listener: Listener, entries: Sequence[str]) -> None:
        self.folder, self.grid, self.listener, self._entries = folder, grid, listener, entries
        self.state = folder.load_state()
        grid.costs = Costs(folder.costs_file)
        self._participants = {finished.number: finished.participants for finished in self.state.of("train")}

    def participants(self, number: int) -> tuple[int, ...]:
        """Return the clients that took part in a round of training."""
        return self._participants.get(number, ())

    def trained(self, phase: str) -> int:
        """Return how many rounds the model at the end of a phase has been trained for."""
        rounds = self.state.of(phase)
        return rounds[-1].number if rounds else 0

    def stage(self, stage: str) -> StateDict:
        """Return the model of a stage."""
        return self.model(self.state.models[stage])

    def model(self, name: str) -> StateDict:
        """Return a model by its SHA-256, its entries in the order of the layers: a file has an order of its own."""
        state = tensors_of(self.folder.load_model(name))
        return {entry: state[entry] for entry in self._entries} if self._entries else state

    def recent(self, phase: str) -> Recent:
        """Return what the guard compares the model of a request with: the last rounds of the phase before it."""
        models = [self.model(name) for name in self.state.recent.get(phase, ())]
        last = [finished.norms for finished in self.state.of(phase)[-WINDOW:]]
        lengths = [finished.norms[NORM] for finished in self.state.rounds if NORM in finished.norms]
        return recent_rounds(last, lengths, pairwise(models), models[0].keys() if models else ())

    def save(self, state: State, events_size: int) -> None:
        """Make a state the one from which a killed run continues."""
        costs = self.grid.costs.sync()
        self.state = replace(state, events_size=events_size, costs_size=costs.size, costs_tail=costs.tail)
        self.folder.save_state(self.state)

    def emit(self, event: str, **facts: Any) -> int:
        """Write an event, pass it to the listener, and return the size of events.jsonl."""
        line = {"time": time.time(), "event": event, **facts}
        size = self.folder.append_event(line)
        self.listener(line)
        return size

    def on_reply(self, phase: str) -> OnReply:
        """Return what emits an event for each refused reply of a phase; the listener gets the accepted ones too."""

        def on_reply(client: int, refused: str | None) -> None:
            if refused:
                self.emit("refused", phase=phase, client=client, reason=refused)
            else:
                self.listener({"event": "reply", "phase": phase, "client": client})

        return on_reply

    def add(
        self,
        phase: Phase,
        finished: FinishedRound,
        new: Arrays,
        round_state: RoundState,
        *,
        remembers: bool,
        stage: str = "",
    ) -> None:
        """Make a finished round or request durable.

        Args:
            phase: that it belongs to.
            finished: what it did and cost.
            new: its model.
            round_state: kept for the phase's next round.
            remembers: whether the guard may compare the model of a request with this one.
            stage: a name by which its model is kept; "": only while it is needed.
        """
        done = round_of(finished)
        before = self.state.current or self.state.models[phase.start]
        parts = (round_state.objective_state, round_state.optimizer_state)
        beside = (None if arrays is None else self.folder.save_model(arrays) for arrays in parts)
        state = self.state.with_round(done, self.folder.save_model(new), *beside)
        if stage:
            state = state.with_model(stage, str(state.current))
        if remembers:
            state = state.with_recent(phase.name, before, WINDOW)
        self.save(state, self.emit("round", **done.event(), model_sha256=state.current))
        if phase.kind == "train":
            self._participants[done.number] = done.participants


@dataclass(frozen=True, slots=True)
class PhaseStore:
    """See `RoundStore`: the rounds of one phase.

    Attributes:
        run: has them.
        phase: which phase.
        remembers: whether the guard may compare the model of a request with them.
        adopts: the stage of the model that the first adopted round makes; "": it is no stage.
        every: whether the model of each round is a stage of its own, as `trained_on` names it.
    """

    run: RunStore
    phase: Phase
    remembers: bool
    adopts: str = ""
    every: bool = False

    @property
    def replies(self) -> Path:
        """See `RoundStore`."""
        return self.run.folder.path / "replies"

    def model(self) -> Arrays:
        """See `RoundStore`."""
        state = self.run.state
        return self.run.folder.load_model(state.current or state.models[self.phase.start])

    def round_state(self) -> RoundState:
        """See `RoundStore`."""
        names = (self.run.state.beside, self.run.state.moments)
        return RoundState(*(self.run.folder.load_model(name) if name else None for name in names))

    def last_checks(self) -> list[Mapping[str, float]]:
        """See `RoundStore`."""
        return [finished.measures for finished in self.run.state.rounds[-WINDOW:]]

    def sizes(self) -> dict[int, int]:
        """See `RoundStore`; in a simulation it is the number that the client was connected with."""
        return {member.client: member.num_examples for member in self.run.grid.members.values()}

    def add(self, finished: FinishedRound, new: Arrays, state: RoundState) -> None:
        """See `RoundStore`."""
        if not finished.adopted:
            self.run.emit("not-adopted", phase=finished.phase, round=finished.number, reason=finished.off)
        self.run.add(self.phase, finished, new, state, remembers=self.remembers, stage=self._stage(finished))

    def _stage(self, finished: FinishedRound) -> str:
        if self.every:
            return trained_on(self.phase.start, len(self.run.state.of(self.phase.name)) + 1)
        return self.adopts if finished.adopted and self.adopts not in self.run.state.models else ""


def round_of(finished: FinishedRound) -> Round:
    """Return a finished round in the form in which a run's state has it."""
    return Round(
        finished.phase,
        finished.trained,
        exchanges=finished.exchanges,
        participants=tuple(finished.contributions),
        refused=finished.refused,
        loss=finished.loss,
        seconds=finished.seconds,
        device_seconds=finished.device_seconds,
        measures={**finished.metrics, **finished.checks},
        bytes_down=finished.traffic.down,
        bytes_up=finished.traffic.up,
        compression_error_down=finished.compression_errors.get("down"),
        compression_error_up=finished.compression_errors.get("up"),
        update_norm=finished.norms.get(NORM),
        update_norm_mad=finished.norms.get(SPREAD),
    )
