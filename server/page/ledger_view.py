"""What the page shows, as plain values from the ledger."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from fedquit.documents import Document
from fedquit.server.federation import Federation
from fedquit.server.ledger import STATES, UNDER_WAY, Event, Ledger, Member, Request, Step
from fedquit.server.page.sentences import NOTABLE, MemberNames, more_devices, outlook, sentence

OPEN = ("asked", *UNDER_WAY)
PHASES = ("train", "forget", "recover")
LATELY, LOOKED_AT = 10, 1000
"""The number of notable events shown, and the number of events at the end of the log that are searched for them."""
ALIKE = 3
"""The number of events shown of one kind and member; and of all that callers can cause."""
FLOODS = ("turned-away", "turned-away-more", "ask-in-reply-refused")
"""Kinds of events that anybody can cause as often as they like; they are shown apart."""
Sample = tuple[tuple[tuple[str, str], ...], float]


def overview(ledger: Ledger, federation: Federation, now: float) -> Document:
    """Return what the first page says: who takes part, where training is, which requests are open."""
    members, steps, requests = ledger.members(), ledger.steps(), ledger.requests()
    names = names_of(members)
    shown = [request_facts(request, federation, names, now, uncharged(ledger, request)) for request in requests]
    return {
        "federation": federation.name,
        "members": [member_facts(member, steps) for member in members],
        "steps": len(steps),
        "last": step_facts(steps[-1]) if steps else None,
        "stalled": is_stalled(steps, federation, now) and not any(r.status in OPEN for r in requests),
        "waiting": waits_for(members, federation),
        "requests": {status: sum(request.status == status for request in requests) for status in STATES},
        "overdue": sum(request["overdue"] for request in shown),
        "open": [request for request in shown if request["status"] in OPEN],
        "lately": lately(ledger, names),
    }


def is_stalled(steps: Sequence[Step], federation: Federation, now: float) -> bool:
    """Say whether the next round of training should be over by now."""
    schedule, trained = federation.schedule, [step for step in steps if step.phase == "train"]
    if not steps or (schedule.rounds and len(trained) >= schedule.rounds):
        return False
    return now > steps[-1].at + schedule.every + schedule.round_timeout


def waits_for(members: Sequence[Member], federation: Federation) -> str:
    """Say how many devices must be enrolled until there can be a round of training; "": enough are."""
    active = sum(member.role == "device" and member.status == "active" for member in members)
    wanted = federation.schedule.min_clients
    if active >= wanted:
        return ""
    return (
        f"waiting for {more_devices(wanted - active)}: a round needs {wanted} and {active} take part; "
        "enrol one with fedquit provision, or lower min-clients in [schedule]"
    )


def names_of(members: Sequence[Member]) -> MemberNames:
    """Return the names of members by number and by fingerprint."""
    return {**{m.number: m.name for m in members}, **{m.fingerprint: m.name for m in members}}


def member_facts(member: Member, steps: Sequence[Step]) -> Document:
    """Return a member and what it contributed; its key is left out, as the fingerprint names it."""
    gave = [(step, c) for step in steps for c in step.contributions if c.member == member.number]
    facts = {name: value for name, value in asdict(member).items() if name != "key"}
    return {
        **facts,
        "steps": len(gave),
        "last_step": gave[-1][0].number if gave else None,
        "num_examples": gave[-1][1].num_examples if gave else None,
    }


def uncharged(ledger: Ledger, request: Request) -> float:
    """Return the seconds that the device of a request has beyond `device-timeout`, as no server was there to see it."""
    if request.status != "forgetting":
        return 0.0
    events = ledger.events(request=request.id)
    away = [event for event in events if event.kind == "server-away" and event.at >= request.changed_at]
    return sum(float(event.facts["seconds"]) for event in away)


def request_facts(
    request: Request, federation: Federation, names: MemberNames, now: float, more: float = 0.0
) -> Document:
    """Return a request, how long it has, and what comes next; the signed ask and the receipt are left out.

    Args:
        request: which.
        federation: the server's config.
        names: of members.
        now: Unix seconds.
        more: seconds of `uncharged`.
    """
    left_out = ("ask", "signature", "receipt")
    facts = {name: value for name, value in asdict(request).items() if name not in left_out}
    is_open = request.status in OPEN
    facts |= {
        "subject_name": names[request.subject],
        "asked_by_name": names.get(request.asked_by, ""),
        "has_receipt": request.receipt is not None,
        "seconds_left": request.deadline - now if is_open else None,
        "overdue": is_open and now > request.deadline,
        "late": not is_open and request.changed_at > request.deadline,
    }
    return {**facts, "outlook": outlook(facts, federation, more)}


def timeline(ledger: Ledger, request: Request, names: MemberNames) -> list[Document]:
    """Return the events of a request, oldest first."""
    return [event_facts(event, names) for event in ledger.events(request=request.id)]


def lately(ledger: Ledger, names: MemberNames) -> list[Document]:
    """Return what happened lately that an operator should hear of, newest first.

    Whoever can make the log say something again and again, a stranger or a device, gets a few lines, and pushes nothing
    else off the page.
    """
    alike, found = Counter[tuple[str, int | None]](), list[Event]()
    for event in ledger.newest_events(LOOKED_AT, without=FLOODS):
        if event.kind in NOTABLE and event.facts.get("verdict") != "adopt":
            alike[event.kind, event.member] += 1
            found += [event] * (alike[event.kind, event.member] <= ALIKE)
    shown = [*found[:LATELY], *ledger.newest_events(ALIKE, only=FLOODS)]
    return [event_facts(event, names) for event in sorted(shown, key=lambda event: event.number, reverse=True)]


def event_facts(event: Event, names: MemberNames) -> Document:
    """Return an event and what it means."""
    facts = {name: value for name, value in asdict(event).items() if name not in ("previous", "digest")}
    return {**facts, "text": sentence(event, names)}


def step_facts(step: Step) -> Document:
    """Return a step, with who took part in it."""
    facts = {name: value for name, value in asdict(step).items() if name != "contributions"}
    return {**facts, "members": [c.member for c in step.contributions]}


def costs(steps: Sequence[Step]) -> dict[str, Document]:
    """Return what each phase has cost so far."""
    return {phase: spent([step for step in steps if step.phase == phase]) for phase in PHASES}


def spent(steps: Sequence[Step]) -> Document:
    """Return what steps have cost: exact bytes, seconds, processor seconds of the devices."""
    return {
        "steps": len(steps),
        "bytes_down": sum(step.bytes_down for step in steps),
        "bytes_up": sum(step.bytes_up for step in steps),
        "seconds": sum(step.seconds for step in steps),
        "device_seconds": sum(step.device_seconds for step in steps),
    }


def metrics(ledger: Ledger, federation: Federation, now: float) -> str:
    """Return the figures as Prometheus reads them (text exposition format)."""
    steps, requests, members = ledger.steps(), ledger.requests(), ledger.members()
    by_status = Counter(request.status for request in requests)
    cost = costs(steps)
    families: dict[str, tuple[str, list[Sample]]] = {
        "members": ("gauge", [((("role", m), ("status", s)), sum(o.role == m and o.status == s for o in members))
                              for m in ("device", "operator") for s in ("active", "withdrawn", "revoked")]),
        "steps_total": ("counter", [((("phase", p),), cost[p]["steps"]) for p in PHASES]),
        "bytes_total": ("counter", [((("phase", p), ("direction", d)), cost[p][f"bytes_{d}"])
                                    for p in PHASES for d in ("down", "up")]),
        "device_seconds_total": ("counter", [((("phase", p),), cost[p]["device_seconds"]) for p in PHASES]),
        "refused_replies_total": ("counter", [((), sum(step.refused for step in steps))]),
        "requests": ("gauge", [((("status", s),), by_status[s]) for s in STATES]),
        "requests_overdue": ("gauge", [((), sum(r.status in OPEN and now > r.deadline for r in requests))]),
        "last_step_timestamp_seconds": ("gauge", [((), steps[-1].at)] if steps else []),
    }  # fmt: skip
    lines = []
    for name, (kind, samples) in families.items():
        lines.append(f"# TYPE fedquit_{name} {kind}")
        for labels, value in samples:
            labelled = ",".join(f'{key}="{text}"' for key, text in (("federation", federation.name), *labels))
            lines.append(f"fedquit_{name}{{{labelled}}} {value}")
    return "\n".join(lines) + "\n"
