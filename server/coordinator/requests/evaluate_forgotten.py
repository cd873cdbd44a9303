"""Evaluate the recovered model on the forgotten data, on the device that had asked, while it still has the data."""

from fedquit.server.coordinator.training_rounds import Training
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.ledger import Request
from fedquit.strategies.cost_log.cost_log import Traffic
from fedquit.strategies.rounds.evaluate import measure


def verify(place: Workplace, training: Training, request: Request) -> tuple[dict[str, float], Traffic]:
    """Return loss and accuracy of the current model on what was forgotten, as the device reports, and their traffic.

    {} is returned if the device does not reply.
    """
    place.reached("recovering: verifying")
    number = place.next_number() - 1
    place.grid.begin("recover", number)
    place.grid.patience = place.federation.schedule.round_timeout
    config: dict[str, int | float | str] = {"samples": "forget", "request": request.id, **training.config()}
    config["granularity"] = request.granularity
    arrays = place.models.load(place.current())
    before = place.grid.costs.of("evaluate")
    on_reply = training.on_reply("evaluate", number, request.id)
    measures: dict[str, float] = {}
    for _, _, metrics in measure(place.grid, [request.subject], arrays, config, on_reply):
        measures = {f"forget_{name}": metrics[name] for name in ("loss", "accuracy") if name in metrics}
    place.grid.costs.sync()
    after = place.grid.costs.of("evaluate")
    return measures, Traffic(after.down - before.down, after.up - before.up)
