"""Checks of single settings: each names the field, what was given, and what would be right."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fedquit.errors import InputError, unknown

T = TypeVar("T")


def is_number(value: object) -> bool:
    """Return whether `value` is a finite int or float (a truth value is none).

    >>> is_number(0.5), is_number("0.5"), is_number(True), is_number(math.nan)
    (True, False, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_positive(field: str, value: float) -> None:
    """Refuse what is no finite number above 0.

    >>> check_positive("lr", 1e-4)
    """
    if not (is_number(value) and value > 0):
        raise InputError(f"{field} is {value!r}; it must be a finite number above 0")


def check_count(field: str, value: int) -> None:
    """Refuse what is no whole number of at least 1.

    >>> check_count("epochs", 1)
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{field} is {value!r}; it must be a whole number of at least 1")


def check_share(field: str, value: float) -> None:
    """Refuse what is no number between 0 and 1.

    >>> check_share("tolerance", 0.01)
    """
    if not (is_number(value) and 0 <= value <= 1):
        raise InputError(f"{field} is {value!r}; it must be between 0 and 1")


def check_at_least_zero(field: str, value: float) -> None:
    """Refuse what is no finite number of at least 0.

    >>> check_at_least_zero("mu", 0.0)
    """
    if not (is_number(value) and value >= 0):
        raise InputError(f"{field} is {value!r}; it must be a finite number of at least 0")


def check_fraction(field: str, value: float) -> None:
    """Refuse what is no number of at least 0 and below 1.

    >>> check_fraction("momentum", 0.9)
    """
    if not (is_number(value) and 0 <= value < 1):
        raise InputError(f"{field} is {value!r}; it must be at least 0 and below 1")


def check_number_of(field: str, value: int) -> None:
    """Refuse what is no whole number of at least 0.

    >>> check_number_of("num-malicious-nodes", 0)
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{field} is {value!r}; it must be a whole number of at least 0")


def construct(what: str, make: Callable[..., T], settings: Mapping[str, Any]) -> T:
    """Return `make(**settings)`; `what` says in errors whose settings they are.

    Raises:
        InputError: there is no such setting, one is missing, or `make` refuses a value.

    >>> construct("method 'x'", lambda lr: lr, {"lr": 0.1})
    0.1
    """
    parameters = inspect.signature(make).parameters
    for given in settings:
        if not parameters:
            raise InputError(f"{what} takes no settings; given: {given}")
        if given not in parameters:
            raise unknown(f"setting of {what}", given, parameters)
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in settings]
    if missing:
        raise InputError(f"{what} needs these settings: {', '.join(missing)}")
    return make(**settings)
