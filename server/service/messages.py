"""What the service says of requests, as messages."""

from fedquit.client.requests.proto import forget_pb2 as messages
from fedquit.client.requests.proto.forget_pb2 import Change, Page, Requests
from fedquit.errors import RefusalError
from fedquit.server.ledger import STATES, Event, Ledger, Member, Request

MOST_AT_ONCE = 100


def as_message(ledger: Ledger, request: Request) -> messages.Request:
    """Return what a member sees of a request."""
    subject = ledger.member(request.subject)
    return messages.Request(
        id=request.id,
        status=request.status,
        granularity=request.granularity,
        classes=request.classes,
        samples_count=request.samples_count,
        samples_digest=request.samples_digest,
        subject=subject.fingerprint,
        subject_name=subject.name,
        asked_by=request.asked_by,
        asked_at=request.asked_at,
        deadline=request.deadline,
        changed_at=request.changed_at,
        method=request.method,
        reason=request.reason,
        model_before=request.model_before,
        model_after=request.model_after,
        has_receipt=request.receipt is not None,
    )


def changes(ledger: Ledger, request: str, after: int) -> list[Change]:
    """Return the states that a request came into after the event numbered `after`, each once, in order.

    They are read from the log, so that a state that lasted for a moment is reported too.
    """
    return [
        Change(id=request, status=status, at=event.at, reason=event.facts.get("reason", ""), number=event.number)
        for event in ledger.events(request=request, after=after)
        if (status := _came_into(event))
    ]


def page_of(ledger: Ledger, member: Member, page: Page) -> Requests:
    """Return the requests that `member` may see, newest first, from where `page` says.

    Raises:
        RefusalError: the page names a state or a request that there is not.
    """
    if page.status and page.status not in STATES:
        raise RefusalError("malformed", f"there is no state '{page.status[:40]}'; states are {', '.join(STATES)}")
    subject = None if member.role == "operator" else member.number
    found = ledger.requests(subject=subject)
    if page.before:
        ids = [one.id for one in found]
        if page.before not in ids:
            raise RefusalError(
                "malformed", f"there is no request {page.before[:64]} to begin before", member=member.number
            )
        found = found[: ids.index(page.before)]
    newest = [one for one in reversed(found) if page.status in ("", one.status)]
    limit = min(page.limit or MOST_AT_ONCE, MOST_AT_ONCE)
    return Requests(requests=[as_message(ledger, one) for one in newest[:limit]], more=len(newest) > limit)


def _came_into(event: Event) -> str:
    """Return the state that an event brought its request into, or nothing if it stayed where it was."""
    if event.kind == "asked":
        return "asked"
    return str(event.facts.get("to", "")) if event.facts.get("of") != event.facts.get("to") else ""
