"""The loop of a simulation: train, forget, recover, retrain, from whatever round the run has reached.

Flower's `Strategy.start` counts from round 1 and supports neither exclusion nor resuming; this loop calls the same
`configure_train` and `aggregate_train`, and after every round makes the new state durable. All random choices come from
seeds derived from the run's seed, the phase, the round and the client, so a run that is killed and resumed ends with
the same model.
"""

from collections.abc import Collection

from fedquit.client.data.build_data_and_model import initial_model
from fedquit.client.data.forget_sets import askers
from fedquit.documents import Listener
from fedquit.errors import InputError
from fedquit.server.lifecycle.training_history import Keep
from fedquit.server.run.phase_request import PhaseRequest
from fedquit.server.run.phase_rounds import PhaseRounds
from fedquit.server.run.phases import Phase, nth
from fedquit.server.run.run_folder import RunFolder
from fedquit.server.run.run_state import State
from fedquit.server.run.simulated_run import SimulatedRun
from fedquit.settings import Settings
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.unlearning.tensors.convert import StateDict, arrays_of


class Loop:
    """Carries out the phases of a simulation; see `SimulatedRun` for the arguments and errors."""

    def __init__(
        self, grid: MeteredGrid, settings: Settings, folder: RunFolder, listener: Listener, keep: Keep | None = None
    ) -> None:
        self._run = SimulatedRun(grid, settings, folder, listener, keep)
        self._store, self._settings = self._run.store, settings

    def run(self, only: Collection[str] | None = None) -> State:
        """Carry out the phases that are not over yet, or those of `only` among them, and return the state.

        Where the guard refuses a method's model, the run is over: what would come after starts from that model.

        Raises:
            InputError: `only` leaves out what one of its phases needs, or a phase that has begun.
        """
        store = self._store
        store.emit("start" if not store.state.rounds else "resume", rounds=len(store.state.rounds))
        left = [phase for phase in self._run.phases if phase.name not in store.state.ended]
        ended = len(store.state.ended)
        begun = next((phase.name for phase in left if store.state.of(phase.name)), None)
        if begun and only is not None and begun not in only:
            raise InputError(f"phase '{begun}' is begun and not over: it must be carried out first")
        for phase in left:
            self._clean_history()
            if only is not None and phase.name not in only:
                continue
            if store.state.refused:
                break
            self._ensure_start(phase)
            kind = PhaseRequest if phase.kind == "forget" else PhaseRounds
            kind(self._run, phase).carry_out()
        self._clean_history()
        if len(store.state.ended) > ended:
            store.save(store.state, store.emit("end", models=store.state.models))
        return store.state

    def _clean_history(self) -> None:
        """Remove what was kept of training and contains what has been erased; all of it once no request is left."""
        settings, store, history = self._settings, self._store, self._run.history
        done = sum(nth("recover", i) in store.state.ended for i in range(settings.num_requests))
        gone = {client for request in range(done) for client in askers(settings, request)}
        stale = history.stale(gone, everything=done == settings.num_requests)
        if stale:  # the event comes first, so that no removal goes unlogged; after a kill it may be there twice
            size = sum(file.stat().st_size for file in stale)
            store.save(store.state, store.emit("purge", files=len(stale), bytes=size))
            history.remove(stale)

    def _ensure_start(self, phase: Phase) -> None:
        """Make the untrained model that a phase starts from, if it is not there."""
        store, settings = self._store, self._settings
        if phase.start in store.state.models:
            return
        if not phase.start.startswith("initial"):
            raise InputError(f"phase '{phase.name}' starts from the {phase.start} model, which is not there yet")
        weights: StateDict = {}
        if self._run.traits.shares == "model":
            weights = initial_model(settings, settings.seed_of_model + phase.reference).state_dict()
        store.state = store.state.with_model(phase.start, store.folder.save_model(arrays_of(weights)))
