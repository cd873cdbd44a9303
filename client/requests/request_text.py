"""Requests and their states as documents and as text for people."""

from datetime import datetime
from typing import Any

from fedquit.client.requests.proto.forget_pb2 import Change, Request
from fedquit.documents import counted

STATES = {
    "asked": "the service has it; it is begun at the next round",
    "forgetting": "the device unlearns; from now on it is not trained with",
    "recovering": "the others mend the model",
    "done": "forgotten, recovered and measured",
    "unrecovered": "forgotten, but accuracy is not back where it was; training continues",
    "refused": "not carried out",
    "failed": "not carried out",
}


def request_document(request: Request) -> dict[str, Any]:
    """Return a request as a JSON document; times are Unix seconds.

    >>> request_document(Request(id="5ba1", status="asked"))["status"]
    'asked'
    """
    document: dict[str, Any] = {field.name: getattr(request, field.name) for field in Request.DESCRIPTOR.fields}
    return {**document, "classes": list(request.classes)}


def change_document(change: Change) -> dict[str, Any]:
    """Return a state that a request came into as a JSON document."""
    return {name: getattr(change, name) for name in ("id", "status", "at", "reason", "number")}


def request_lines(request: Request) -> list[str]:
    """Return what a person wants to know of a request, a line each."""
    rows = [
        ("request", request.id),
        ("what", what(request)),
        ("state", f"{request.status}: {STATES.get(request.status, '')}"),
        ("reason", request.reason),
        ("asked", when(request.asked_at)),
        ("changed", when(request.changed_at)),
        ("due", when(request.deadline)),
        ("method", request.method),
        ("model before", request.model_before),
        ("model after", request.model_after),
        ("receipt", "yes" if request.has_receipt else ""),
    ]
    return [f"{name:>13}  {value}" for name, value in rows if value]


def what(request: Request) -> str:
    """Say what a request is about.

    >>> what(Request(granularity="class", classes=[3, 5]))
    'class 3, 5, wherever it lies'
    """
    if request.granularity == "class":
        return f"class {', '.join(map(str, request.classes))}, wherever it lies"
    if request.granularity == "sample":
        return f"{counted(request.samples_count, 'sample')} of {request.subject_name}"
    return f"all that {request.subject_name} contributed"


def when(seconds: float) -> str:
    """Say a time as people do, in the local zone.

    >>> when(0.0)
    ''
    """
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S %Z}" if seconds else ""
