"""What the phases of one simulation share: its settings and what follows from them, its clients, and its store."""

from collections.abc import Mapping
from typing import Any

from fedquit.client.compression.build_compression import compression_of
from fedquit.client.data.build_data_and_model import empty_model, form_of
from fedquit.client.data.evaluation_sets import sets_of
from fedquit.client.objectives import Sharing
from fedquit.client.personal.personal_evaluation import mean_of
from fedquit.client.personal.personal_models import own_model
from fedquit.client.training.build_method import method_of
from fedquit.client.training.build_objective import objective_of
from fedquit.documents import Listener
from fedquit.errors import InputError
from fedquit.server.lifecycle.evaluator import Evaluator
from fedquit.server.lifecycle.rounds.carry_out_round import Rounds
from fedquit.server.lifecycle.rounds.deferred_step import check_adopt
from fedquit.server.lifecycle.training_history import History, Keep
from fedquit.server.run.personal_reports import Devices, measures_by_client
from fedquit.server.run.phase_rules import rules_of
from fedquit.server.run.phases import Phase, phases
from fedquit.server.run.run_folder import RunFolder
from fedquit.server.run.run_store import RunStore
from fedquit.settings import Settings
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.unlearning.tensors.arithmetic import parameter_names
from fedquit.unlearning.tensors.convert import Arrays


class SimulatedRun:
    """A simulation, for its phases.

    Args:
        grid: carries the messages.
        settings: of the run.
        folder: where it is kept.
        listener: called with every event as it happens.
        keep: what to keep of training, if not just what the run's own method needs.

    Raises:
        InputError: settings that exclude each other, or another number of clients is connected.
    """

    def __init__(
        self, grid: MeteredGrid, settings: Settings, folder: RunFolder, listener: Listener, keep: Keep | None = None
    ) -> None:
        self.grid, self.settings = grid, settings
        self.method, self.objective = method_of(settings), objective_of(settings)
        check_adopt(settings, self.method)
        self.traits, self.rules = self.objective.needs(), rules_of(settings)
        is_global = self.traits.shares == "model"
        model = empty_model(settings.key()) if is_global else None
        self.store = RunStore(folder, grid, listener, list(model.state_dict()) if model else [])
        self.phases = phases(settings, matches=self.store.state.matches)
        keep = keep or Keep.of(self.method.needs())
        self.history = History(folder.path, keep, settings.clients, self.store.participants)
        self.sharing = self._sharing()
        self.devices = Devices(grid, settings, self.store.on_reply("evaluate"))
        self.held_out = Evaluator(settings, sets_of(settings).holdout) if is_global else None
        self._forgotten = Evaluator(settings, sets_of(settings).forget) if is_global else None
        self.names = parameter_names(model) if model else frozenset[str]()
        sharing = self.sharing if self.traits.owns else None
        self.rounds = Rounds(grid, settings, self.objective, self.names, sharing)
        grid.compression = compression_of(settings)
        clients = sorted(member.client for member in grid.members.values())
        if clients != list(range(settings.clients)):
            raise InputError(f"clients: {settings.clients} are needed, {len(clients)} are connected")

    def _sharing(self) -> Sharing:
        """Return what the objective shares with devices, and how."""
        if not self.traits.owns:
            return Sharing()
        return self.objective.sharing(own_model(self.settings, 0, 0), form_of(self.settings).num_classes)

    def phase(self, name: str) -> Phase:
        """Return the phase of that name."""
        return next(phase for phase in self.phases if phase.name == name)

    def metrics(self, phase: Phase, new: Arrays, number: int) -> dict[str, float]:
        """Return the accuracies after a round: of the global model, or the mean over the personalised models."""
        if self.held_out is None or self._forgotten is None:
            return self.devices.round(phase, number)
        return {
            "holdout_accuracy": self.held_out.metrics(new)["accuracy"],
            "forget_accuracy": self._forgotten.metrics(new)["accuracy"],
        }

    def accuracy(self, stage: str) -> float:
        """Return the held-out accuracy of a stage: of its model, or the mean over the personalised models."""
        state = self.store.state
        if self.held_out is None:
            return mean_of(measures_by_client(state.devices[stage]))["holdout_accuracy"]
        return self.held_out.metrics(self.store.folder.load_model(state.models[stage]))["accuracy"]

    def is_remembered(self, phase: Phase) -> bool:
        """Say whether the guard may compare the model of a request with the rounds of a phase."""
        before_another = phase.kind == "recover" and phase.requests < self.settings.num_requests
        return self.held_out is not None and (phase.kind == "train" or before_another)

    def end(self, phase: Phase, model: str, reason: str, *, reached: bool) -> None:
        """End a phase whose outcome is `model`."""
        state = self.store.state.with_end(phase.name, phase.result, model, reason, reached=reached)
        if self.traits.owns:
            number = self.store.trained(phase.name) or self.store.trained(phase.after)
            state = state.with_devices(phase.result, self.devices.stage(phase, number))
        self.store.save(state, self._emit_end(phase, phase.result, model, reason, reached=reached))

    def refuse(self, phase: Phase) -> None:
        """Emit the end of a phase whose model the guard refused; the model stays what it was."""
        model, state = self.store.state.models[phase.start], self.store.state
        size = self._emit_end(phase, phase.start, model, state.ended[phase.name], reached=False)
        self.store.save(state, size)

    def _emit_end(self, phase: Phase, stage: str, model: str, reason: str, *, reached: bool) -> int:
        facts: Mapping[str, Any] = {"stage": stage, "model_sha256": model, "reason": reason, "reached": reached}
        return self.store.emit("phase-end", phase=phase.name, **facts)
