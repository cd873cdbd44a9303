"""What every setting says of itself: its range, its line of help, and who reads it.

Commands that need some of the settings ask for them by `Part` or `Scope`, so that none of them keeps a list of names.
"""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Part(StrEnum):
    """The part of a run that a setting belongs to."""

    PLACE = "place"
    """Where something lies on this machine; the same run elsewhere has another value."""
    TRAINING = "training"
    """The trained model depends on it, or what is measured during training."""
    REQUEST = "request"
    """Who asks to be forgotten, and what."""
    METHOD = "method"
    """How it is forgotten."""
    STOP_RULE = "stop rule"
    """When recovery ends."""
    AFTER_TRAINING = "after training"
    """Anything else that training does not depend on."""


class Scope(StrEnum):
    """Where a setting is given: all of them for a simulation, some also in server.toml, in the table named here."""

    SIMULATION = "a simulation"
    """Nowhere else: a simulation makes up the data, the clients and the requests."""
    TRAINING = "[training]"
    FORGETTING = "[forgetting]"


class Group(BaseModel):
    """Settings of one kind; users write the names of fields in kebab-case."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
        allow_inf_nan=False,
    )


def setting(description: str, part: Part, scope: Scope, **limits: Any) -> Any:
    """Return the pydantic `Field` of a setting.

    Args:
        description: its line of `--help`.
        part: of a run that it belongs to.
        scope: where it is given.
        limits: of its value, as for `pydantic.Field`.
    """
    return Field(description=description, json_schema_extra={"part": part.value, "scope": scope.value}, **limits)


def marks(group: type[Group], name: str) -> tuple[Part, Scope]:
    """Return the part and the scope of the field `name`.

    Raises:
        TypeError: it was not declared with `setting`.
    """
    extra = group.model_fields[name].json_schema_extra
    if not isinstance(extra, dict):
        raise TypeError(f"setting {name} says neither its part nor its scope: declare it with setting()")
    return Part(str(extra["part"])), Scope(str(extra["scope"]))
