"""What the page shows, as plain values from the ledger."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from fedquit.documents import Document
from fedquit.server.federation import Federation
from fedquit.server.ledger import UNDER_WAY, Event, Ledger, Member, MemberTotals, PhaseTotals, RequestLine, Step
from fedquit.server.page.sentences import NOTABLE, MemberNames, more_devices, outlook, sentence

OPEN = ("asked", *UNDER_WAY)
PHASES = ("train", "forget", "recover")
LATELY, LOOKED_AT = 10, 1000
"""The number of notable events shown, and the number of events at the end of the log that are searched for them."""
ALIKE = 3
"""The number of events shown of one kind and member; and of all that callers can cause."""
FLOODS = ("turned-away", "turned-away-more", "ask-in-reply-refused")
"""Kinds of events that anybody can cause as often as they like; they are shown apart."""


def overview(ledger: Ledger, federation: Federation, now: float) -> Document:
    """Return what the first page says: who takes part, where training is, which requests are open."""
    members, last, gave = ledger.members(), ledger.last_step(), ledger.member_totals()
    names = names_of(ledger, members)
    shown = [
        request_facts(line, federation, names, now, uncharged(ledger, line))
        for line in ledger.request_lines(statuses=OPEN)
    ]
    trained = ledger.phase_totals().get("train", PhaseTotals()).steps
    return {
        "federation": federation.name,
        "members": [member_facts(member, gave.get(member.number)) for member in members],
        "steps": last.number if last else 0,
        "last": step_facts(last) if last else None,
        "stalled": is_stalled(last, trained, federation, now) and not shown,
        "waiting": waits_for(members, federation),
        "requests": ledger.requests_by_status(),
        "overdue": sum(request["overdue"] for request in shown),
        "open": shown,
        "lately": lately(ledger, names),
    }


def is_stalled(last: Step | None, trained: int, federation: Federation, now: float) -> bool:
    """Say whether the next round of training should be over by now, after the last step and `trained` rounds."""
    schedule = federation.schedule
    if last is None or (schedule.rounds and trained >= schedule.rounds):
        return False
    return now > last.at + schedule.every + schedule.round_timeout


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


def names_of(ledger: Ledger, members: Sequence[Member]) -> MemberNames:
    """Return the names of members by number and by the fingerprint of each key that they have or had."""
    names: dict[int | str | None, str] = {}
    for member in members:
        names[member.number] = names[member.fingerprint] = member.name
    for key, (number, _) in ledger.replaced_keys().items():
        names.setdefault(key, names.get(number, ""))
    return names


def member_facts(member: Member, gave: MemberTotals | None) -> Document:
    """Return a member and what it contributed; its key is left out, as the fingerprint names it."""
    facts = {name: value for name, value in asdict(member).items() if name != "key"}
    return {
        **facts,
        "steps": gave.steps if gave else 0,
        "last_step": gave.last_step if gave else None,
        "num_examples": gave.num_examples if gave else None,
    }


def uncharged(ledger: Ledger, request: RequestLine) -> float:
    """Return the seconds that the device of a request has beyond `device-timeout`, as no server was there to see it."""
    if request.status != "forgetting":
        return 0.0
    events = ledger.events(request=request.id)
    away = [event for event in events if event.kind == "server-away" and event.at >= request.changed_at]
    return sum(float(event.facts["seconds"]) for event in away)


def request_facts(
    request: RequestLine, federation: Federation, names: MemberNames, now: float, more: float = 0.0
) -> Document:
    """Return a request, how long it has, and what comes next.

    Args:
        request: which.
        federation: the server's config.
        names: of members.
        now: Unix seconds.
        more: seconds of `uncharged`.
    """
    facts = asdict(request)
    is_open = request.status in OPEN
    facts |= {
        "subject_name": names[request.subject],
        "asked_by_name": names.get(request.asked_by, ""),
        "seconds_left": request.deadline - now if is_open else None,
        "overdue": is_open and now > request.deadline,
        "late": not is_open and request.changed_at > request.deadline,
    }
    return {**facts, "outlook": outlook(facts, federation, more)}


def timeline(ledger: Ledger, request: RequestLine, names: MemberNames) -> list[Document]:
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


def costs(ledger: Ledger) -> dict[str, PhaseTotals]:
    """Return what each phase has cost so far."""
    found = ledger.phase_totals()
    return {phase: found.get(phase, PhaseTotals()) for phase in PHASES}


def spent(steps: Iterable[Step]) -> Document:
    """Return what the steps of a request have cost: exact bytes, seconds, processor seconds of the devices."""
    listed = list(steps)
    names = ("bytes_down", "bytes_up", "seconds", "device_seconds")
    return {"steps": len(listed), **{name: sum(getattr(step, name) for step in listed) for name in names}}
