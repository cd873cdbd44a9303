"""Finished rounds in the form of the ledger: each is one step, and its model lies in the server's folder.

A model is written before the transaction that names it, so a coordinator that was killed leaves at most a file that no
step names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedquit.server.coordinator.participants.excluded_devices import FOUND
from fedquit.server.coordinator.retention import Past
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.ledger import Contribution, Request, Step
from fedquit.server.lifecycle.rounds.finished_round import FinishedRound
from fedquit.server.lifecycle.rounds.observed_rounds import WINDOW
from fedquit.server.lifecycle.rounds.train_round import RoundState
from fedquit.unlearning.tensors.convert import Arrays

REPLIES = "replies"
"""Folder that holds a round's replies until all have arrived."""


def step_of(
    place: Workplace,
    finished: FinishedRound,
    *,
    request: Request | None,
    model_before: str,
    model_after: str,
    measures: Mapping[str, float],
) -> Step:
    """Return the step of a finished round or forget step; its bytes include those of the evaluation that it took."""
    evaluation = place.grid.costs.of("evaluate", finished.number)
    contributions = (Contribution(member, count, digest) for member, (count, digest) in finished.contributions.items())
    return Step(
        number=finished.number,
        phase=finished.phase,
        request=request.id if request else None,
        model_before=model_before,
        model_after=model_after,
        round=finished.trained if finished.adopted else finished.trained - 1,
        contributions=tuple(contributions),
        refused=finished.refused,
        seconds=finished.seconds,
        device_seconds=finished.device_seconds,
        bytes_down=finished.traffic.down + evaluation.down,
        bytes_up=finished.traffic.up + evaluation.up,
        measures=dict(measures),
        at=place.clock(),
    )


def measures_of(finished: FinishedRound) -> dict[str, float]:
    """Return the measures of a round of training or recovery, as its step has them."""
    measures = {
        **({"train_loss": finished.loss} if finished.adopted else {}),
        **finished.norms,
        **{f"compression_error_{way}": error for way, error in finished.compression_errors.items()},
        **finished.checks,
        **finished.metrics,
    }
    return measures if finished.found is None else {**measures, f"{FOUND}{finished.found}": 1.0}


@dataclass(frozen=True)
class LedgerRounds:
    """See `RoundStore`: where the next round of training, or of a request's recovery, begins and ends in the ledger.

    Attributes:
        place: has the ledger and the models.
        past: knows what devices contributed before.
        phase: "train" or "recover".
        request: that recovers; None: the phase is training.
    """

    place: Workplace
    past: Past
    phase: str
    request: Request | None = None

    @property
    def replies(self) -> Path:
        """See `RoundStore`."""
        return self.place.folder / REPLIES

    def model(self) -> Arrays:
        """See `RoundStore`."""
        return self.place.models.load(self.place.current())

    def round_state(self) -> RoundState:
        """See `RoundStore`."""
        return self._kept[0]

    def nth(self) -> int:
        """Return which round of the phase comes next, from 1."""
        return self._kept[1] + 1

    @cached_property
    def _kept(self) -> tuple[RoundState, int]:
        """Return what the last round kept for the next one of its phase, and which round of the phase that was."""
        last, request = self.place.ledger.last_step(), self.request.id if self.request else None
        if last is None or (last.phase, last.request) != (self.phase, request):
            return RoundState(), 0
        return self.place.kept.load(last.number)

    def last_checks(self) -> list[Mapping[str, float]]:
        """See `RoundStore`."""
        steps = self.place.ledger.steps(after=max(0, self.place.next_number() - 1 - WINDOW))
        return [step.measures for step in steps if step.phase != "forget"]

    def sizes(self) -> dict[int, int]:
        """See `RoundStore`."""
        return self.past.sizes()

    def add(self, finished: FinishedRound, new: Arrays, state: RoundState) -> None:
        """See `RoundStore`."""
        place, before = self.place, self.place.current()
        place.kept.save(finished.number, state, self.nth())
        model = place.models.save(new) if finished.adopted else before
        place.reached(f"{self.phase}: model written")
        place.grid.costs.sync()
        step = step_of(
            place,
            finished,
            request=self.request,
            model_before=before,
            model_after=model,
            measures=measures_of(finished),
        )
        place.ledger.add_step(step, kind="recovered" if self.request else "round")
        place.reached(f"{self.phase}: committed")
