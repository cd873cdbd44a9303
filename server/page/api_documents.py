"""What the page's API answers: the shape of each document, as its OpenAPI description states it."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """A document says just what its description says."""

    model_config = ConfigDict(extra="forbid")


class Trouble(Document):
    """Why there is no answer."""

    detail: str


class Health(Document):
    """Whether the server can work.

    Attributes:
        status: "ok" or "trouble".
        federation: its name.
        waiting: for how many more devices training waits, or nothing.
        troubles: what keeps the server from working: a full disk, a last step that failed, no coordinator.
    """

    status: str
    federation: str
    waiting: str
    troubles: list[str]


class MemberDocument(Document):
    """A member, and what it contributed."""

    number: int
    name: str
    role: str
    fingerprint: str
    status: str
    enrolled_at: float
    steps: int
    last_step: int | None
    num_examples: int | None


class RequestDocument(Document):
    """A request to forget; `asked_by` is a fingerprint, times are Unix seconds."""

    id: str
    subject: int
    subject_name: str
    asked_by: str
    asked_by_name: str
    granularity: str
    classes: list[int]
    samples_count: int
    samples_digest: str
    status: str
    outlook: str
    asked_at: float
    deadline: float
    changed_at: float
    method: str
    reason: str
    model_before: str
    model_after: str
    has_receipt: bool
    seconds_left: float | None
    overdue: bool
    late: bool


class EventDocument(Document):
    """A line of the audit log."""

    number: int
    at: float
    kind: str
    text: str
    request: str | None
    member: int | None
    facts: dict[str, Any]


class OneRequest(RequestDocument):
    """A request with its events, oldest first."""

    events: list[EventDocument]


class StepDocument(Document):
    """A finished round or forget step."""

    number: int
    phase: str
    request: str | None
    model_before: str
    model_after: str
    round: int
    members: list[int]
    refused: int
    seconds: float
    device_seconds: float
    bytes_down: int
    bytes_up: int
    measures: dict[str, float]
    at: float


class Overview(Document):
    """Who takes part, where training is, which requests are open."""

    federation: str
    members: list[MemberDocument]
    steps: int
    last: StepDocument | None
    stalled: bool
    expiring: list[str]
    waiting: str
    requests: dict[str, int]
    overdue: int
    open: list[RequestDocument]
    lately: list[EventDocument]
