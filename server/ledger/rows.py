"""What the ledger holds, as plain frozen values."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Member:
    """A device or an operator, known by its public key.

    Attributes:
        number: 0, 1, 2, ...; never reused. It is the `client` of strategies, rounds and costs.
        role: "device" or "operator".
        fingerprint: hex SHA-256 of `key`.
        key: its public key, DER SubjectPublicKeyInfo.
        status: "active"; "withdrawn" (its data was asked to be forgotten) or "revoked" (its key) for ever.
        enrolled_at: Unix seconds.
    """

    number: int
    name: str
    role: str
    fingerprint: str
    key: bytes
    status: str
    enrolled_at: float


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one member gave to one step: how many samples, and a commitment to which (hex; empty: not told)."""

    member: int
    num_examples: int
    samples_digest: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One finished round or forget step; the last one is where the federation is.

    Attributes:
        number: 1, 2, 3, ... without a gap.
        phase: "train", "forget", "recover", or "undo": back to the model before a forget step that was no use.
        request: id of the request that it serves, or None.
        model_before: SHA-256 of the model file it began with; `model_after`: of what it made.
        round: how many rounds the new model has been trained for.
        refused: replies that did not go into the model.
        seconds: from the first message to the new model; `device_seconds`: processor time over all devices.
        measures: finite numbers such as `holdout_accuracy`.
        at: Unix seconds.
    """

    number: int
    phase: str
    request: str | None
    model_before: str
    model_after: str
    round: int
    contributions: tuple[Contribution, ...]
    refused: int
    seconds: float
    device_seconds: float
    bytes_down: int
    bytes_up: int
    measures: dict[str, float]
    at: float


@dataclass(frozen=True, slots=True)
class StepLine:
    """A step for lists: its number, its phase and the SHA-256 of the model that it made."""

    number: int
    phase: str
    model_after: str


@dataclass(frozen=True, slots=True)
class PhaseTotals:
    """Sums over the steps of one phase; see `Step` for what each is."""

    steps: int = 0
    refused: int = 0
    seconds: float = 0.0
    device_seconds: float = 0.0
    bytes_down: int = 0
    bytes_up: int = 0


@dataclass(frozen=True, slots=True)
class MemberTotals:
    """To how many steps a member contributed, the last of them, and how many samples to that one."""

    steps: int
    last_step: int
    num_examples: int


@dataclass(frozen=True, slots=True)
class NewRequest:
    """An ask that was admitted, before the ledger has taken it.

    Attributes:
        id: hex SHA-256 of `ask`.
        subject: number of the member whose data is to be forgotten.
        asked_by: fingerprint of the key that signed.
        granularity: "client", "sample" or "class".
        samples_digest: as the ask says it, salted (version 2) or not; 64 hex digits, or empty.
        deadline: Unix seconds by which it must be done.
        ask: the exact bytes that were signed.
    """

    id: str
    subject: int
    asked_by: str
    granularity: str
    ask: bytes
    signature: bytes
    deadline: float
    classes: tuple[int, ...] = ()
    samples_count: int = 0
    samples_digest: str = ""
    method: str = ""


@dataclass(frozen=True, slots=True)
class RequestState:
    """A request to forget, and how far it is, without its bytes: a receipt names every step, and grows with them.

    Attributes:
        status: asked, forgetting, recovering, done, unrecovered, refused or failed.
        asked_at: Unix seconds when the ledger took it; `changed_at`: when it last changed.
        method: what forgets, once that is known; `reason`: why it was refused or failed.
        model_before: SHA-256 of the model that contained the data; `model_after`: of the one that forgot. Or empty.
    """

    id: str
    subject: int
    asked_by: str
    granularity: str
    classes: tuple[int, ...]
    samples_count: int
    samples_digest: str
    status: str
    asked_at: float
    deadline: float
    method: str
    reason: str
    model_before: str
    model_after: str
    changed_at: float


@dataclass(frozen=True, slots=True)
class RequestLine(RequestState):
    """A request for lists; `has_receipt` says whether there is one."""

    has_receipt: bool


@dataclass(frozen=True, slots=True)
class Request(RequestState):
    """A request with its bytes: the signed receipt, if there is one, and what was asked and signed."""

    receipt: bytes | None
    ask: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the audit log.

    Attributes:
        number: 1, 2, 3, ... without a gap.
        at: Unix seconds.
        facts: what happened; `facts["rows"]` names the rows it wrote and their digests.
        previous: digest of the event before; 64 zeros for the first.
        digest: hex SHA-256 over all other fields, see docs/ledger.md.
    """

    number: int
    at: float
    kind: str
    request: str | None
    member: int | None
    facts: dict[str, Any] = field(default_factory=dict)
    previous: str = ""
    digest: str = ""
