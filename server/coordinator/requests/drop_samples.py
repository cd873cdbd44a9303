"""Have devices drop what a request was about without unlearning it: the model has forgotten it already."""

from collections.abc import Sequence

from fedquit.client.device.deployed_device import DROP
from fedquit.server.coordinator.model_metrics import NOTHING_HELD
from fedquit.server.coordinator.requests.request_config import request_config
from fedquit.server.coordinator.training_rounds import Training
from fedquit.server.ledger import RequestState
from fedquit.strategies.rounds.exercise import run_exercise


def drop_samples(training: Training, request: RequestState, members: Sequence[int]) -> list[int]:
    """Have devices drop what a request was about, and return those that have; their models are not used."""
    place, outcomes = training.place, dict[int, str | None]()
    number = place.next_number()
    place.grid.begin("forget", number)
    place.grid.patience = place.federation.schedule.round_timeout
    config = {**request_config(training, request, place.settings), DROP: 1, "samples": "forget", "seed": 0}
    note = training.on_reply("forget", number, request.id)

    def on_reply(member: int, refused: str | None) -> None:
        outcomes[member] = refused
        note(member, refused)

    arrays, configs = place.models.load(place.sendable()), dict.fromkeys(members, config)
    for _ in run_exercise(place.grid, "forget", members, arrays, configs, on_reply=on_reply):
        pass
    place.grid.costs.sync()
    return sorted(m for m, refused in outcomes.items() if refused is None or NOTHING_HELD in refused)
