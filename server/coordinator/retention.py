"""Which past models and updates the server keeps on disk, who took part when, and what must be removed.

Kept are the current model, those of the last steps (the guard compares with them), the untrained one, what a method of
the policy needs, and the model before a request that is recovering. Everything else is removed after every step,
including files that a killed attempt left and no step names.

Once a request is done, every model that contained the data is removed: those from its first contribution up to the
request. Their hashes stay in the ledger.
"""

from collections.abc import Collection, Mapping
from functools import cached_property

from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.ledger import FORGOTTEN, UNDER_WAY, Request, Step
from fedquit.server.lifecycle.rounds.observed_rounds import NORM, WINDOW
from fedquit.server.lifecycle.training_history import History, Keep
from fedquit.server.provision.backup.unfinished_backup import models_in_backup, remove_unfinished_backup
from fedquit.strategies.guard.client_weights import believed
from fedquit.unlearning.methods.base import Method
from fedquit.unlearning.tensors.convert import StateDict


class Past:
    """The past of a federation.

    Args:
        place: the workplace.
        methods: of the policy, whose needs decide what is kept.

    Attributes:
        rounds: how many rounds of training there were, as of the last `steps()`; `last_round` the last of them.
    """

    def __init__(self, place: Workplace, methods: Collection[Method]) -> None:
        self._place = place
        self._restarts = any(method.traits.restarts for method in methods)
        keep = Keep.of(*(m.needs() for m in methods if not m.traits.restarts)) if methods else Keep()
        self.updates = History(place.folder, keep, MANY, lambda number: self._seen.get(number, ()))
        self._first: dict[int, Step] = {}
        self._seen: dict[int, tuple[int, ...]] = {}
        self._largest: dict[int, list[int]] = {}  # the two largest counts of a device's samples, the larger last
        self._lengths: list[float] = []  # the two longest median steps of a round
        self._read = 0
        self.rounds = 0
        self.last_round: Step | None = None

    def session_history(self) -> "StepHistory":
        """Return the past as a method reads it."""
        return StepHistory(self)

    def steps(self) -> Mapping[int, tuple[int, ...]]:
        """Return who contributed to each step, up to the last."""
        for step in self._place.ledger.steps(after=self._read):
            self._seen[step.number] = tuple(given.member for given in step.contributions)
            self._read = step.number
            for given in step.contributions:
                self._first.setdefault(given.member, step)
            for given in step.contributions if step.phase != "forget" else ():
                self._largest[given.member] = sorted([*self._largest.get(given.member, ()), given.num_examples])[-2:]
            if NORM in step.measures:
                self._lengths = sorted([*self._lengths, step.measures[NORM]])[-2:]
            if step.phase == "train":
                self.rounds, self.last_round = self.rounds + 1, step
        return self._seen

    def contributors(self) -> set[int]:
        """Return who contributed to any step."""
        self.steps()
        return set(self._first)

    def longest(self) -> list[float]:
        """Return the two longest of all rounds' median steps, or fewer."""
        self.steps()
        return list(self._lengths)

    def sizes(self) -> dict[int, int]:
        """Return how many samples each device has counted for: at least twice, or once if it took part once."""
        self.steps()
        return {member: largest[0] for member, largest in self._largest.items()}

    def size(self, member: int) -> int:
        """Return how many samples a device is believed to have; one that never trained, as many as it may have."""
        sizes = self.sizes()
        return believed({member: MANY, **sizes}, {})[member] if sizes else 1

    def checkpoints(self) -> dict[int, str]:
        """Return the steps before whose start some device had never taken part, and the models they began with.

        A method that restarts goes back to them. Those that contain what was forgotten since are none.
        """
        self.steps()
        if not self._restarts:
            return {}
        clean = self._clean_until()
        return {step.number: step.model_before for step in self._first.values() if step.number <= clean}

    def contained(self, request: Request) -> list[str]:
        """Return the models that contained what a request is about until it was forgotten."""
        return sorted({step.model_after for step in self._place.ledger.descendants(request)})

    def keep_alive(self) -> set[str]:
        """Return the models that must stay."""
        ledger = self._place.ledger
        last = ledger.last_step()
        recent = ledger.steps(after=max(0, (last.number if last else 0) - WINDOW))
        under_way = [request for status in UNDER_WAY for request in ledger.requests(status=status)]
        served = [step.number for step in recent if step.phase in ("forget", "undo")]
        if served and not (recent and recent[-1].request in {request.id for request in under_way}):
            recent = [step for step in recent if step.number > served[-1]]
        models = {self._place.initial, self._place.current(), *self.checkpoints().values()}
        models |= {name for step in recent for name in (step.model_before, step.model_after)}
        models |= {request.model_before for request in under_way if request.status == "recovering"}
        return models - {""}

    def tidy(self) -> None:
        """Remove the models and everything else that is no longer needed."""
        alive = self.keep_alive()
        self._place.models.remove(self._place.models.names() - alive)
        self._place.kept.drop_before(self._place.next_number() - 1)
        if self._place.ledger.in_progress() is None:
            self._place.quarantine.remove(self._place.quarantine.names())

    def purge(self, request: Request) -> tuple[list[str], list[str]]:
        """Remove what contains the data of a request that has recovered.

        Returns:
            The models that are gone for good, and those that a backup which is being made still holds. Together they
            are the same if it is done twice.
        """
        remove_unfinished_backup(self._place.folder)  # its hard links would keep what is removed here
        gone = self.contained(request)
        alive = {self._place.initial, self._place.current()}
        self._place.models.remove((set(gone) & self._place.models.names()) - alive)
        self._place.quarantine.remove(self._place.quarantine.names())
        whose = set(self._first) if request.granularity == "class" else {request.subject}
        self.updates.remove(self.updates.stale(whose, everything=True))
        held = models_in_backup(self._place.folder)  # after they were removed: no backup can link to them now
        return sorted(set(gone) - alive - held), sorted((set(gone) - alive) & held)

    def recent(self) -> list[Step]:
        """Return the last steps of training and recovery whose models are there, the latest last."""
        last = self._place.ledger.last_step()
        steps = self._place.ledger.steps(after=max(0, (last.number if last else 0) - WINDOW))
        there = self._place.models.names()
        return [s for s in steps if s.phase in ("train", "recover") and {s.model_before, s.model_after} <= there]

    def _clean_until(self) -> int:
        """Return the last step before which nothing was contributed that has been forgotten since."""
        clean = self._read + 1
        for request in self._place.ledger.request_lines(statuses=FORGOTTEN):
            first = self._first.get(request.subject)
            clean = 1 if request.granularity == "class" else min(clean, first.number if first else clean)
        return clean


class StepHistory:
    """See `fedquit.unlearning.session.History`; its rounds are the ledger's steps."""

    def __init__(self, past: Past) -> None:
        self._past = past

    @cached_property
    def _who(self) -> Mapping[int, tuple[int, ...]]:
        return self._past.steps()

    @cached_property
    def _checkpoints(self) -> dict[int, str]:
        there = self._past._place.models.names()
        return {number: name for number, name in self._past.checkpoints().items() if name in there}

    def rounds(self) -> list[int]:
        """See `History`."""
        return sorted({*self._past.updates.rounds(), *self._checkpoints})

    def model(self, number: int) -> StateDict:
        """See `History`."""
        if number in self._checkpoints:
            return self._past._place.state(self._checkpoints[number])
        return self._past.updates.model(number)

    def update(self, number: int, client: int) -> StateDict | None:
        """See `History`."""
        return self._past.updates.update(number, client)

    def participants(self, number: int) -> Collection[int]:
        """See `History`."""
        return self._who.get(number, ())


MANY = 10**9
"""More devices than any federation has, as a new one may come at any time; and more samples than a device has."""
