"""What the coordinator works with: a federation, its folder, its ledger, its grid, and a clock."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import filelock
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedquit.client.compression.build_compression import compression_of
from fedquit.client.data.build_data_and_model import empty_model, initial_model
from fedquit.client.training.build_objective import objective_of
from fedquit.errors import FedquitError, InputError
from fedquit.files import explained
from fedquit.server.coordinator.kept_states import KeptStates
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger, Request, RequestState, Step
from fedquit.server.ledger.model_lineage import forget_step
from fedquit.server.lifecycle.build_rules import named_rules
from fedquit.server.lifecycle.model_store import Models
from fedquit.server.lifecycle.request_seeds import RequestSeeds
from fedquit.server.provision.backup.unfinished_backup import remove_unfinished_backup
from fedquit.settings import num_classes
from fedquit.strategies.cost_log.cost_log import Costs
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.unlearning.tensors.arithmetic import parameter_names
from fedquit.unlearning.tensors.convert import Arrays, StateDict, arrays_of, tensors_of

Admit = Callable[[bytes, bytes], str]
Reached = Callable[[str], None]
DEFERRED = "deferred"
"""The measure of a step that forgot which says that its model is added to a round and sent to no other device."""


def seconds_since_boot() -> float:
    """Return seconds that no change of the clock touches; on Linux those that the machine slept count too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Workplace:
    """See the module; the folder is locked for as long as this object is not closed.

    The state of the federation is the last step of the ledger; the models that it names are in the folder. What is
    written into the folder before a step is committed is named by its content, or by the step's number, so a killed
    attempt leaves nothing that matters.

    Args:
        grid: carries the messages; it has no members yet.
        federation: the server's config.
        folder: the server's.
        ledger: open.
        receipts_key: signs receipts; None: there are none.
        admit: takes a request (its bytes and signature) that came in a reply, and returns its id.
        clock: Unix seconds; people and time servers may set this clock.
        steady: seconds of a clock that is never set; waits inside this process are measured by it.
        pause: waits a number of seconds.
        reached: called with each point of the work, just before it is passed.
    """

    def __init__(
        self,
        grid: MeteredGrid,
        federation: Federation,
        folder: Path,
        ledger: Ledger,
        *,
        receipts_key: Ed25519PrivateKey | None = None,
        admit: Admit | None = None,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = seconds_since_boot,
        pause: Callable[[float], None] = time.sleep,
        reached: Reached = lambda _point: None,
    ) -> None:
        self.federation, self.folder, self.ledger = federation, folder, ledger
        self.receipts_key = receipts_key
        self.admit, self.clock, self.steady = admit or _refuse, clock, steady
        self.pause, self.reached = pause, reached
        self.settings = federation.settings()
        self.objective, self.rules = objective_of(self.settings), named_rules(self.settings)
        self.names = parameter_names(empty_model(self.settings.key()))
        self.order = list(empty_model(self.settings.key()).state_dict())
        self.models = Models(folder / "models")
        self.quarantine = Models(folder / "quarantine")
        with explained(folder):
            for path in (self.models.folder, self.quarantine.folder):
                path.mkdir(exist_ok=True)
        self.kept = KeptStates(folder)
        self._lock = filelock.FileLock(str(folder / ".coordinator.lock"), timeout=0)
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise FedquitError(f"another coordinator is at work in {folder}; stop it first") from None
        remove_unfinished_backup(folder)
        for left in folder.rglob(".*.partial"):
            left.unlink(missing_ok=True)
        self.grid = grid
        self.grid.patience = federation.schedule.round_timeout
        self.grid.on_stray = lambda member, facts: self.note("stray-reply", member=member, facts=facts)
        self.grid.on_doubted = lambda member, facts: self.note("reply-bounded", member=member, facts=facts)
        mend_rows(folder / "costs.csv")
        self.grid.costs, self.grid.compression = Costs(folder / "costs.csv"), compression_of(self.settings)
        self.initial = self.models.save(self._initial())

    def close(self) -> None:
        """Release the folder for another coordinator."""
        self._lock.release()

    def note(
        self,
        kind: str,
        *,
        request: str | None = None,
        member: int | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an event to the audit log."""
        self.ledger.note(kind, request=request, member=member, facts=facts or {})

    def no_such_class(self, request: RequestState) -> str:
        """Say which class a request is about that there is not; "": all are there.

        Asks for such classes are refused; earlier versions took them, and no device can drop what it does not know.
        """
        number = num_classes(self.settings.classes)
        beyond = [label for label in request.classes if number and label >= number]
        return f"there is no class {beyond[0]} here: they are 0 to {number - 1}" if beyond else ""

    # Models

    def current(self) -> str:
        """Return the name of the model that the federation has reached."""
        last = self.ledger.last_step()
        return last.model_after if last else self.initial

    def deferred(self) -> Step | None:
        """Return the step that forgot, if no round has taken it in yet: no other device may be sent its model."""
        for request in self.ledger.requests(status="recovering"):
            forgot = forget_step(self.ledger.steps(request=request.id), request)
            if forgot and forgot.measures.get(DEFERRED) and forgot.model_after == self.current():
                return forgot
        return None

    def sendable(self) -> str:
        """Return the name of the model that any device may be sent."""
        waiting = self.deferred()
        return waiting.model_before if waiting else self.current()

    def state(self, name: str) -> StateDict:
        """Return a model, its entries in the order of the layers."""
        loaded = tensors_of(self.models.load(name))
        return {key: loaded[key] for key in self.order}

    def rounds_trained(self) -> int:
        """Return how many rounds the current model has been trained for."""
        last = self.ledger.last_step()
        return last.round if last else 0

    def next_number(self) -> int:
        """Return the number of the step that comes next."""
        last = self.ledger.last_step()
        return last.number + 1 if last else 1

    def seeds(self, request: Request) -> RequestSeeds:
        """Return what the random choices of a request derive from."""
        return RequestSeeds.of_id(self.settings.seed, request.id)

    def _initial(self) -> Arrays:
        model = initial_model(self.settings, self.settings.seed_of_model)
        return arrays_of(model.state_dict())


def mend_rows(path: Path) -> None:
    """Cut off a row of the cost log that a killed server did not finish writing."""
    if not path.exists():
        return
    with explained(path), path.open("r+b") as file:
        size, end = file.seek(0, os.SEEK_END), 0
        tail = min(size, LONGEST_ROW)
        file.seek(size - tail)
        end = size - tail + file.read().rfind(b"\n") + 1
        if end < size:
            file.truncate(end)


LONGEST_ROW = 4096


def _refuse(ask: bytes, signature: bytes) -> str:
    del ask, signature
    raise InputError("this server takes no asks in replies")
