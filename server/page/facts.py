"""What the page shows, as plain values from the ledger."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger, Member, Request, Step

STATUSES = ("asked", "forgetting", "recovering", "done", "refused", "failed")
OPEN = STATUSES[:3]
PHASES = ("train", "forget", "recover")
Facts = dict[str, Any]
Sample = tuple[tuple[tuple[str, str], ...], float]


def overview(ledger: Ledger, federation: Federation, now: float | None = None) -> Facts:
    """Return what the first page says: who takes part, where training is, which requests are open."""
    now = time.time() if now is None else now
    members, steps, requests = ledger.members(), ledger.steps(), ledger.requests()
    shown = [request_facts(ledger, request, now) for request in requests]
    return {
        "federation": federation.name,
        "members": [member_facts(member, steps) for member in members],
        "steps": len(steps),
        "last": step_facts(steps[-1]) if steps else None,
        "requests": {status: sum(request.status == status for request in requests) for status in STATUSES},
        "overdue": sum(request["overdue"] for request in shown),
        "open": [request for request in shown if request["status"] in OPEN],
    }


def member_facts(member: Member, steps: Sequence[Step]) -> Facts:
    """Return a member and what it contributed; its key is left out, as the fingerprint names it."""
    gave = [(step, c) for step in steps for c in step.contributions if c.member == member.number]
    facts = {name: value for name, value in asdict(member).items() if name != "key"}
    return {
        **facts,
        "steps": len(gave),
        "last_step": gave[-1][0].number if gave else None,
        "num_examples": gave[-1][1].num_examples if gave else None,
    }


def request_facts(ledger: Ledger, request: Request, now: float) -> Facts:
    """Return a request and how long it has; the signed ask and the receipt are left out."""
    left_out = ("ask", "signature", "receipt")
    facts = {name: value for name, value in asdict(request).items() if name not in left_out}
    subject = ledger.member(request.subject)
    is_open = request.status in OPEN
    return {
        **facts,
        "subject_name": subject.name,
        "has_receipt": request.receipt is not None,
        "seconds_left": request.deadline - now if is_open else None,
        "overdue": is_open and now > request.deadline,
    }


def timeline(ledger: Ledger, request: Request) -> list[Facts]:
    """Return the events of a request, oldest first."""
    return [
        {"number": event.number, "at": event.at, "kind": event.kind, "facts": event.facts}
        for event in ledger.events(request=request.id)
    ]


def step_facts(step: Step) -> Facts:
    """Return a step, with who took part in it."""
    facts = {name: value for name, value in asdict(step).items() if name != "contributions"}
    return {**facts, "members": [c.member for c in step.contributions]}


def costs(steps: Sequence[Step]) -> dict[str, Facts]:
    """Return what each phase has cost so far: exact bytes, seconds, processor seconds of the devices."""
    return {
        phase: {
            "steps": len(those),
            "bytes_down": sum(step.bytes_down for step in those),
            "bytes_up": sum(step.bytes_up for step in those),
            "seconds": sum(step.seconds for step in those),
            "device_seconds": sum(step.device_seconds for step in those),
        }
        for phase in PHASES
        for those in [[step for step in steps if step.phase == phase]]
    }


def metrics(ledger: Ledger, federation: Federation, now: float | None = None) -> str:
    """Return the figures as Prometheus reads them (text exposition format)."""
    now = time.time() if now is None else now
    steps, requests, members = ledger.steps(), ledger.requests(), ledger.members()
    by_status = Counter(request.status for request in requests)
    spent = costs(steps)
    families: dict[str, tuple[str, list[Sample]]] = {
        "members": ("gauge", [((("role", m), ("status", s)), sum(o.role == m and o.status == s for o in members))
                              for m in ("device", "operator") for s in ("active", "withdrawn")]),
        "steps_total": ("counter", [((("phase", p),), spent[p]["steps"]) for p in PHASES]),
        "bytes_total": ("counter", [((("phase", p), ("direction", d)), spent[p][f"bytes_{d}"])
                                    for p in PHASES for d in ("down", "up")]),
        "device_seconds_total": ("counter", [((("phase", p),), spent[p]["device_seconds"]) for p in PHASES]),
        "refused_replies_total": ("counter", [((), sum(step.refused for step in steps))]),
        "requests": ("gauge", [((("status", s),), by_status[s]) for s in STATUSES]),
        "requests_overdue": ("gauge", [((), sum(r.status in OPEN and now > r.deadline for r in requests))]),
        "last_step_timestamp_seconds": ("gauge", [((), steps[-1].at)] if steps else []),
    }  # fmt: skip
    lines = []
    for name, (kind, samples) in families.items():
        lines.append(f"# TYPE fedquit_{name} {kind}")
        for labels, value in samples:
            told = ",".join(f'{key}="{text}"' for key, text in (("federation", federation.name), *labels))
            lines.append(f"fedquit_{name}{{{told}}} {value}")
    return "\n".join(lines) + "\n"
