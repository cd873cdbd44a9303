"""A finished round or request, the same for both drivers; a run's folder and the ledger store it in their own form."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedquit.server.lifecycle.grid_session import GridSession
from fedquit.server.lifecycle.rounds.round_order import Order
from fedquit.server.lifecycle.rounds.train_round import Trained
from fedquit.strategies.cost_log.cost_log import Traffic
from fedquit.strategies.cost_log.cost_rows import DIRECTIONS
from fedquit.strategies.grid.metered_grid import MeteredGrid


@dataclass(frozen=True, slots=True)
class FinishedRound:
    """The outcome and the costs of a round, or of the step that serves a request.

    Attributes:
        phase: as in the cost log.
        number: that its messages count to.
        trained: how many rounds the model has been trained for, this one included.
        exchanges: how often the server sent messages and waited; 1 except for some methods of forgetting.
        contributions: client -> number of its samples that counted, and their digest if it sent one.
        refused: replies that did not go into the model.
        loss: mean training loss (nats) over the samples.
        seconds: from the first message to the new model.
        device_seconds: of processor time, over all devices.
        traffic: payload bytes, without those of evaluation.
        compression_errors: direction -> mean relative L2 error of the models sent; {}: not compressed.
        norms: statistics of the clients' steps, see `ObservedRound.statistics`.
        checks: figures of the checks on the replies.
        metrics: of the new model.
        adopted: whether the replies made a model that can be used; if not, the model is that before.
        off: why not; `found`: the client whose reply is to blame, if that is certain.
    """

    phase: str
    number: int
    trained: int
    exchanges: int
    contributions: Mapping[int, tuple[int, str]]
    refused: int
    loss: float
    seconds: float
    device_seconds: float
    traffic: Traffic
    compression_errors: Mapping[str, float]
    norms: Mapping[str, float] = field(default_factory=dict)
    checks: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    adopted: bool = True
    off: str = ""
    found: int | None = None


def finished_round(
    grid: MeteredGrid, order: Order, done: Trained, *, trained: int, norms: Mapping[str, float]
) -> FinishedRound:
    """Return the outcome of a round of training or recovery; its model is not evaluated yet.

    Args:
        grid: that carried the messages.
        order: of the round.
        done: its result.
        trained: how many rounds the model has been trained for, this one included.
        norms: statistics of the clients' steps.
    """
    return FinishedRound(
        phase=order.phase,
        number=order.number,
        trained=trained,
        exchanges=1,
        contributions=done.taken,
        refused=done.refused,
        loss=done.loss,
        seconds=done.seconds,
        device_seconds=done.device_seconds,
        traffic=grid.costs.of(order.phase, order.number),
        compression_errors=_compression_errors(grid),
        norms=norms,
        checks=done.checks,
        adopted=done.adopted,
        off=done.off,
        found=done.found,
    )


def finished_request(
    grid: MeteredGrid, session: GridSession, phase: str, number: int, *, trained: int, seconds: float
) -> FinishedRound:
    """Return the outcome of the step that serves a request; its model is not evaluated yet.

    Args:
        grid: that carried the messages.
        session: in which the method served the request.
        phase: as in the cost log.
        number: that the messages count to.
        trained: how many rounds the new model has been trained for.
        seconds: that it took.
    """
    return FinishedRound(
        phase=phase,
        number=number,
        trained=trained,
        exchanges=session.exchanges,
        contributions={
            client: (reply.num_examples, reply.samples_digest) for client, reply in sorted(session.answered.items())
        },
        refused=len(session.reasons),
        loss=session.loss,
        seconds=seconds,
        device_seconds=session.device_seconds,
        traffic=grid.costs.of(phase, number),
        compression_errors=_compression_errors(grid),
    )


def _compression_errors(grid: MeteredGrid) -> dict[str, float]:
    errors = {way: grid.compression_error(way) for way in DIRECTIONS}
    return {way: error for way, error in errors.items() if error is not None}
