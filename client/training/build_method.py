"""The method that a run's settings name, checked against what the run asks of it."""

from fedquit.client.training.build_objective import objective_of
from fedquit.errors import InputError
from fedquit.settings import Settings
from fedquit.unlearning.methods.base import Method, Traits, make_method


def method_of(settings: Settings) -> Method:
    """Return the method with its settings, and those of the run's local training that it leaves to the run.

    Raises:
        InputError: there is no such method or setting, it cannot forget at this granularity, it cannot serve a
            second request of the run, or there is no model of the kind that it needs.

    >>> method_of(Settings(method="negate")).traits.needs_device
    False
    """
    method = make_method(settings.method, **settings.method_options())
    method = method.as_in_run(epochs=settings.local_epochs, batch_size=settings.batch_size)
    can = sorted(method.traits.granularities)
    if settings.granularity not in can:
        raise InputError(f"method '{settings.method}' forgets by {', '.join(can)}, not by {settings.granularity}")
    if settings.num_requests > 1 and method.traits.keeps_updates:
        raise InputError(
            f"method '{settings.method}' can serve one request in a run: the updates it reads are purged "
            "with the first; name all clients in one request (forget = 0,3) or use another method"
        )
    _check_objective(settings, method.traits)
    return method


def _check_objective(settings: Settings, traits: Traits) -> None:
    """Refuse a method that needs what an objective's devices do not share."""
    shares = objective_of(settings).needs()
    if shares.shares == "answers" and traits.needs_model:
        raise InputError(
            f"method '{settings.method}' works on a global model; objective '{settings.objective}' has none: what a "
            "client said is left out from the moment it leaves. Set method = continue, which does that and continues"
        )
    if shares.owns and traits.runs_at == "federation":
        raise InputError(
            f"method '{settings.method}' has devices train the global model, and with objective "
            f"'{settings.objective}' they also train their own; choose a method that runs at the server or on "
            "the device that asks, such as fedquit"
        )
