"""The types of settings that are more than a number or a text, each read from one line of text too."""

from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

Scalar = bool | int | float | str
"""A value in Flower's run config."""
Numbers = tuple[Annotated[int, Field(ge=0)], ...]


def _requests(given: object) -> object:
    """Read "0,3;5" as [["0", "3"], ["5"]]: two requests, one after the other; 3 and [0, 3] are one request."""
    if isinstance(given, str):
        return [[part.strip() for part in request.split(",") if part.strip()] for request in given.split(";")]
    if isinstance(given, int) and not isinstance(given, bool):
        return [[given]]
    if isinstance(given, list | tuple) and given and not any(isinstance(part, list | tuple) for part in given):
        return [given]
    return given


def _each_once(requests: tuple[Numbers, ...]) -> tuple[Numbers, ...]:
    """Name nobody twice in one request, and refuse a request of nobody."""
    if not all(requests):
        raise ValueError("a request names nobody; write 0, or 0,3 at once, or 0;3 one after the other")
    return tuple(tuple(dict.fromkeys(request)) for request in requests)


Requests = Annotated[tuple[Numbers, ...], BeforeValidator(_requests), AfterValidator(_each_once)]
"""Requests one after the other, each about clients or classes by number: "0,3;5"."""


def _joined(by: str) -> Callable[[object], object]:
    """Return what reads a list or a number as text: [1, 28, 28] as "1x28x28", 10 as "10"."""

    def read(given: object) -> object:
        if isinstance(given, list | tuple):
            return by.join(map(str, given))
        return str(given) if isinstance(given, int) and not isinstance(given, bool) else given

    return read


Names = Annotated[str, BeforeValidator(_joined(","))]
"""Text, or a list that becomes text: "ill,well"."""
Lengths = Annotated[str, BeforeValidator(_joined("x"))]
"""Text, or a list that becomes text: "1x28x28"."""


def _pairs(given: object) -> object:
    """Read "lr=0.001,epochs=2" as {"lr": 0.001, "epochs": 2}."""
    if isinstance(given, Mapping):
        for value in given.values():
            if isinstance(value, str) and (_scalar(value) != value or "," in value or value != value.strip()):
                raise ValueError(f"the text {value!r} looks like a number or a list")
        return {str(key).replace("-", "_"): value for key, value in given.items()}
    if not isinstance(given, str):
        return given
    pairs: dict[str, Scalar] = {}
    for part in filter(None, (part.strip() for part in given.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"'{part}' is not KEY=VALUE")
        pairs[key.strip().replace("-", "_")] = _scalar(value.strip())
    return pairs


def _scalar(text: str) -> Scalar:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


Options = Annotated[dict[str, Scalar], BeforeValidator(_pairs)]
"""The own settings of what another setting names: "lr=0.001,epochs=2"."""


def as_text(value: object) -> Scalar:
    """Return the value of a setting as its validator reads it again, for Flower's run config has scalars only.

    >>> as_text(((0, 3), (5,))), as_text({"lr": 0.1, "quick": True}), as_text(2)
    ('0,3;5', 'lr=0.1,quick=true', 2)
    """
    if isinstance(value, tuple):
        return ";".join(",".join(map(str, request)) for request in value)
    if isinstance(value, dict):
        return ",".join(f"{name}={_shown(part)}" for name, part in value.items())
    if not isinstance(value, Scalar):
        raise TypeError(f"{value!r} has no form in a run config")
    return value


def _shown(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
