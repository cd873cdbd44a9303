"""Parts of a report as dataclasses whose fields are its keys."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from fedquit.errors import InputError

T = TypeVar("T")


def typed(kind: type[T], document: Mapping[str, Any]) -> T:
    """Return a part of a report as a dataclass; keys that it has no field for are left to the document.

    Raises:
        InputError: a key is missing, as in the report of an earlier version.

    >>> from fedquit.simulations.api.run_parts import Ratios
    >>> typed(Ratios, {"bytes": 0.1, "rounds": 0.2, "seconds": 0.3, "device_seconds": 0.25}).bytes
    0.1
    """
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type] # a dataclass
    for name, field in known.items():
        if name not in document and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"the report does not say '{name}': it is of an earlier version; use its .document")
    return kind(**{name: document[name] for name in known if name in document})
