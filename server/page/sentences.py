"""What states and events mean, in sentences for the operator: where a request stands, and what comes next."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from fedquit.server.federation import Federation
from fedquit.server.ledger import Event

Facts = Mapping[str, Any]
MemberNames = Mapping[int | str | None, str]
"""Names of members by number and by fingerprint."""


def outlook(request: Facts, federation: Federation, more: float = 0.0) -> str:
    """Say where a request stands and what comes next.

    Args:
        request: of `facts.request_facts`.
        federation: the server's config.
        more: seconds for which the device is waited for beyond `device-timeout`, as the server was away.

    >>> outlook({"status": "recovering", "overdue": False}, Federation(name="clinics"))
    'The other devices mend the model, until its accuracy is back or [forgetting] recover-rounds are over.'
    """
    settings = federation.forgetting
    if request["status"] == "asked":
        return "It waits for its turn: between two rounds, when no other request recovers, the oldest first."
    if request["status"] == "forgetting":
        by = moment(request["changed_at"] + settings.device_timeout + more)
        fallback = (
            f"then {settings.fallback[0]} is tried"
            if settings.fallback
            else "then it fails, as [forgetting] fallback is empty"
        )
        if request["method"] in settings.fallback:
            return f"{settings.method} could not do it; {request['method']} is at work."
        who = "the devices that hold the class" if request["granularity"] == "class" else request["subject_name"]
        return f"It waits for {who}, until {by}; {fallback}. Training continues meanwhile."
    if request["status"] == "recovering":
        return "The other devices mend the model, until its accuracy is back or [forgetting] recover-rounds are over."
    if request["status"] == "done":
        return "Hand the receipt to whoever asked: anyone can check it, offline."
    if request["status"] == "unrecovered":
        return (
            "The data is forgotten, but accuracy is not back where it was; training continues and may restore it. "
            "Hand the receipt to whoever asked, and look at the accuracy of the next rounds."
        )
    if not request["method"]:
        return "It was not begun. The reason says why."
    stays = " The device stays out of training." if request["granularity"] == "client" else ""
    return f"The model still contains the data.{stays} Mend the reason, then ask again: fedquit forget."


def more_devices(number: int) -> str:
    """Return that number of devices in words.

    >>> more_devices(1), more_devices(2)
    ('1 more device', '2 more devices')
    """
    return f"{number} more device" + ("" if number == 1 else "s")


def moment(seconds: float) -> str:
    """Return a moment for people, to the minute.

    >>> moment(0)
    '1970-01-01 00:00 UTC'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def sentence(event: Event, names: MemberNames) -> str:
    """Say what an event of the log means; its kind alone, where another version wrote other facts.

    >>> sentence(Event(1, 0.0, "reply-refused", None, 3, {"phase": "train", "reason": "it holds NaN"}), {3: "west"})
    "west's reply (train) was refused: it holds NaN"
    """
    who = names.get(event.member, "somebody unknown")
    try:
        return SENTENCES[event.kind](event.facts, who, names)
    except (KeyError, TypeError):
        return event.kind


def _forgetting(facts: Facts, who: str, _names: MemberNames) -> str:
    out = f"; {who} is never trained with again" if "withdrawn" in facts else ""
    return f"begun, by {facts['method']}{out}"


def _quarantined(facts: Facts, who: str, _names: MemberNames) -> str:
    off = f", as it was further off than recent rounds explain: {facts['off']}" if facts["off"] else ""
    warned = f"; {facts['warning']}" if facts.get("warning") else ""
    return f"the guard looked at the model of {facts.get('method', who)}; verdict: {facts['verdict']}{off}{warned}"


def _done(facts: Facts, _who: str, _names: MemberNames) -> str:
    end = facts.get("to", "done")
    if "stopped" not in facts:
        return str(end)
    return f"{end} after {facts['rounds']} round(s) of recovery: {facts['stopped']}; {facts['removed']} models removed"


def _more(facts: Facts, _who: str, names: MemberNames) -> str:
    counts = [f"{c['count']} x {c['reason']}" + _of(c["member"], names) for c in facts["counts"]]
    return f"more asks or calls were refused: {', '.join(counts)}"


def _why(reason: str) -> str:
    return f": {reason}" if reason else ""


def _of(member: int | None, names: MemberNames) -> str:
    return f" ({names.get(member, member)})" if member is not None else ""


SENTENCES: Mapping[str, Callable[[Facts, str, MemberNames], str]] = {
    "asked": lambda facts, _who, names: f"asked by {names.get(facts['asked_by'], facts['asked_by'][:12])}",
    "forgetting": _forgetting,
    "deadline-near": lambda _facts, _who, _names: "a tenth of the time is left",
    "deadline-past": lambda _facts, _who, _names: "the deadline is past",
    "reply-refused": lambda facts, who, _names: f"{who}'s reply ({facts['phase']}) was refused: {facts['reason']}",
    "no-reply": lambda facts, who, _names: f"{who} did not answer ({facts['phase']}): {facts['reason']}",
    "reply-bounded": lambda facts, who, _names: (
        f"{who}'s {facts['what']} ({facts['phase']}) is {facts['said']}, counted as at most {facts['at_most']}"
    ),
    "reply-left-out": lambda facts, who, _names: f"{who}'s reply ({facts['phase']}) was {facts['reason']}",
    "round-not-adopted": lambda facts, _who, _names: (
        f"what the devices sent in step {facts['step']} ({facts['phase']}) was not adopted: {facts['reason']}"
    ),
    "round-failed": lambda facts, _who, _names: f"a round failed: {facts['reason']}",
    "quarantined": _quarantined,
    "forgot": lambda facts, _who, _names: facts.get("why") or f"forgotten: model {facts.get('model_after', '')[:12]}",
    "server-away": lambda facts, who, _names: (
        f"the server's clock was set by {facts['seconds']:+.0f} s, which {who} is not charged with"
        if facts.get("clock")
        else f"the server was away for {facts['seconds']:.0f} s, which {who} is not charged with"
    ),
    "fallback": lambda facts, _who, _names: f"{facts['failed']} could not do it: {facts['why']}; now {facts['method']}",
    "recovered": lambda facts, _who, _names: f"round {facts['round']}, of recovery: model {facts['model_after'][:12]}",
    "dropped": lambda _facts, who, _names: f"{who} has dropped it, too",
    "undone": lambda facts, _who, _names: (
        f"undone, as {facts['failed']} did not help: {facts['why']}; "
        + (f"now {facts['method']}" if facts["to"] == "forgetting" else "no other method is left")
    ),
    "done": _done,
    "unrecovered": _done,
    "refused": lambda facts, _who, _names: f"refused: {facts.get('reason', '')}",
    "failed": lambda facts, _who, _names: f"failed: {facts.get('reason', '')}",
    "waiting": lambda facts, _who, _names: (
        f"waiting for {more_devices(facts['wanted'] - facts['connected'])}: "
        f"{facts['connected']} of {facts['wanted']} are connected"
    ),
    "clock-set": lambda facts, _who, _names: f"the server's clock was set by {facts['seconds']:+} s",
    "revoked": lambda facts, who, _names: f"the key of {who} is revoked{_why(facts['reason'])}",
    "key-replaced": lambda facts, who, _names: (
        f"{who} has a new key, {facts['fingerprint'][:12]}, on the word of {facts['by']}; {facts['replaced'][:12]} "
        "counts no more"
    ),
    "removed": lambda _facts, who, _names: f"{who} was removed; it had never contributed",
    "stranger": lambda facts, _who, _names: f"a node with a key that nobody here has: {facts['fingerprint'][:12]}",
    "ask-in-reply-refused": lambda facts, who, _names: f"an ask in {who}'s reply was refused: {facts['reason']}",
    "turned-away": lambda facts, who, _names: (
        f"an ask or call of {who} was refused: {facts.get('why', facts['reason'])}"
    ),
    "turned-away-more": _more,
}
NOTABLE = frozenset(SENTENCES) - {"asked", "forgetting", "forgot", "recovered", "done", "dropped"}
"""What an operator should hear of on the first page."""
