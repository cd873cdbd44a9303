"""The method that a run's settings name, checked against what the run asks of it."""

from dataclasses import fields, is_dataclass

from fedquit.client.training.build_objective import objective_of
from fedquit.errors import InputError
from fedquit.settings import Scalar, Settings
from fedquit.unlearning.methods.base import Method, Traits, make_method


def method_of(settings: Settings) -> Method:
    """Return the method with its settings, and those of the run's local training that it leaves to the run.

    Raises:
        InputError: there is no such method or setting, it cannot forget at this granularity, it cannot serve a
            second request of the run, or there is no model of the kind that it needs.

    >>> method_of(Settings(method="negate")).traits.needs_device
    False
    """
    method = _in_run(_as_given(settings), settings)
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


def options_of(settings: Settings) -> dict[str, Scalar]:
    """Return the method's settings as given, and those that the run's local training fills in.

    Raises:
        InputError: there is no such method or setting.

    >>> options_of(Settings(method="orthogonal", local_epochs=2, batch_size=50, method_settings={"epochs": 1}))
    {'epochs': 1, 'batch_size': 50}
    """
    given = _as_given(settings)
    made = _in_run(given, settings)
    names: list[str] = [each.name for each in fields(made)] if is_dataclass(made) else []
    filled = {name: getattr(made, name) for name in names if getattr(made, name) != getattr(given, name)}
    return {**settings.method_options(), **filled}


def _as_given(settings: Settings) -> Method:
    return make_method(settings.method, **settings.method_options())


def _in_run(method: Method, settings: Settings) -> Method:
    return method.as_in_run(epochs=settings.local_epochs, batch_size=settings.batch_size)


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
