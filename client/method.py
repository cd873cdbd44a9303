"""The method that a run's settings name, checked against what the run asks of it."""

from fedquit.client.settings import Settings
from fedquit.errors import InputError
from fedquit.unlearning.methods import Method, make_method


def method_of(settings: Settings) -> Method:
    """Return the method with its settings.

    Raises:
        InputError: there is no such method or setting, it cannot forget at this granularity, or it cannot serve a
            second request of the run.

    >>> method_of(Settings(method="negate")).traits.needs_device
    False
    """
    method = make_method(settings.method, **settings.method_options())
    can = sorted(method.traits.granularities)
    if settings.granularity not in can:
        raise InputError(f"method '{settings.method}' forgets by {', '.join(can)}, not by {settings.granularity}")
    if settings.num_requests > 1 and method.traits.keeps_updates:
        raise InputError(
            f"method '{settings.method}' can serve one request in a run: the updates it reads are purged "
            "with the first; name all clients in one request (forget = 0,3) or use another method"
        )
    return method
