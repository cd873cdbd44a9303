"""The server's ledger: members, requests, steps and a hash-chained audit log, in SQLite or PostgreSQL."""

from fedquit.server.ledger.audit_log.seal import Ed25519Seal, Seal
from fedquit.server.ledger.interface.ledger import Ledger
from fedquit.server.ledger.request_states import ENDS, FORGOTTEN, STATES, UNDER_WAY
from fedquit.server.ledger.rows import (
    Contribution,
    Event,
    Member,
    MemberTotals,
    NewRequest,
    PhaseTotals,
    Request,
    RequestLine,
    RequestState,
    Step,
    StepLine,
)

__all__ = [
    "ENDS",
    "FORGOTTEN",
    "STATES",
    "UNDER_WAY",
    "Contribution",
    "Ed25519Seal",
    "Event",
    "Ledger",
    "Member",
    "MemberTotals",
    "NewRequest",
    "PhaseTotals",
    "Request",
    "RequestLine",
    "RequestState",
    "Seal",
    "Step",
    "StepLine",
]
