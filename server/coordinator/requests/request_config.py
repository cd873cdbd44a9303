"""What devices are sent about a request besides the model."""

from fedquit.server.coordinator.training_rounds import Training
from fedquit.server.ledger import RequestState
from fedquit.settings import Part, Settings, keys_of


def request_config(training: Training, request: RequestState, plan: Settings) -> dict[str, float | str]:
    """Return what a request is about, and how to forget it.

    Args:
        training: has what every message carries.
        request: which.
        plan: the settings of the method that serves it.
    """
    config = plan.run_config()
    return {
        **training.config(),
        "request": request.id,
        "granularity": request.granularity,
        "classes": ",".join(map(str, request.classes)),
        **{key: str(config[key]) for key in keys_of(Part.METHOD)},
    }
