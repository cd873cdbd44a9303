"""May this ask be taken? One decision over the ledger, for asks that come to the service or ride in a device's reply.

An ask is taken if a member signed these exact bytes for this federation, lately, about data that it may ask for and that
was contributed. What would repeat an earlier request gives that one. Every refusal has a code and a sentence, and the
ledger hears of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

from fedquit.client.asking.ask import MalformedError, Signed, is_from, read_ask
from fedquit.client.asking.forget_pb2 import Ask
from fedquit.errors import FedquitError
from fedquit.server.ledger import Ledger, Member, NewRequest, Request

DAY = 86_400.0
OPEN = ("asked", "forgetting", "recovering")


class Refusal(FedquitError):
    """An ask or a call is refused; `code` names why for programs, the text for people."""

    def __init__(self, code: str, text: str, *, member: int | None = None) -> None:
        super().__init__(text)
        self.code, self.member = code, member


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator allows.

    Attributes:
        federation: its name, which every ask must carry.
        fresh: seconds that an ask's time may differ from the server's.
        deadline: seconds within which a request must be done.
        open_per_key: requests of one key that may be under way at once; `daily_per_key`: in 24 hours.
        open_in_all: the same for all keys together; `daily_in_all`.
    """

    federation: str
    fresh: float = 600.0
    deadline: float = 30 * DAY
    open_per_key: int = 20
    daily_per_key: int = 100
    open_in_all: int = 1_000
    daily_in_all: int = 5_000


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that the ledger holds; `known`: it did before."""

    request: Request
    known: bool


_one_at_a_time = Lock()  # between the look at the ledger and the row


def admit(
    ledger: Ledger,
    signed: Signed,
    rules: Rules,
    *,
    now: float,
    came_from: str = "",
    turn_away: Callable[[Refusal, dict[str, Any]], None] | None = None,
) -> Admitted:
    """Take an ask into the ledger, or give the request that it repeats.

    Args:
        ledger: where requests are.
        signed: the ask.
        rules: what the operator allows.
        now: Unix seconds.
        came_from: for the audit: an address, or "reply" for an ask that rode in a device's reply.
        turn_away: told of a refusal instead of the ledger, by a caller that bounds how much is written.

    Raises:
        Refusal: it is not taken; the ledger has heard of it.
    """
    try:
        with _one_at_a_time:
            found = decide(ledger, signed, rules, now=now)
            if isinstance(found, Request):
                return Admitted(found, known=True)
            request, new = ledger.take(found)
            return Admitted(request, known=not new)
    except Refusal as refusal:
        facts = {"code": refusal.code, "ask": signed.id, "from": came_from}
        if turn_away is not None:
            turn_away(refusal, facts)
        else:
            ledger.turn_away(refusal.code, member=refusal.member, facts=facts)
        raise


def decide(ledger: Ledger, signed: Signed, rules: Rules, *, now: float) -> NewRequest | Request:
    """Decide what becomes of an ask; nothing is written.

    Returns:
        What the ledger should take, or the request that is there already.

    Raises:
        Refusal: it cannot be taken.
    """
    try:
        ask = read_ask(signed.ask)
    except MalformedError as error:
        raise Refusal("malformed", str(error)) from error
    asker = _signer(ledger, ask, signed)
    with _about(asker):
        if ask.federation != rules.federation:
            raise Refusal("wrong-federation", f"this is the federation '{rules.federation}', not '{ask.federation}'")
        known = ledger.find(signed.id)
        if known is not None:
            return known
        off = now - ask.created_at
        if abs(off) > rules.fresh:
            when = f"{abs(off):.0f} s {'old' if off > 0 else 'ahead of the server'}"
            raise Refusal("stale", f"the ask is {when}; at most {rules.fresh:.0f} s: set the clock and ask again")
        subject = _subject(ledger, ask, asker)
        earlier = _earlier(ledger, ask, subject)
        if earlier is not None:
            return earlier
        _check_contributed(ledger, ask, subject)
        _check_quotas(ledger, asker, rules, now)
    return NewRequest(
        id=signed.id,
        subject=subject.number,
        asked_by=asker.fingerprint,
        granularity=ask.granularity,
        ask=signed.ask,
        signature=signed.signature,
        deadline=now + rules.deadline,
        classes=tuple(ask.classes),
        samples_count=ask.samples_count,
        samples_digest=ask.samples_digest,
    )


@contextmanager
def _about(asker: Member) -> Iterator[None]:
    """Name in a refusal the member that is proven to have asked."""
    try:
        yield
    except Refusal as refusal:
        refusal.member = asker.number
        raise


def _signer(ledger: Ledger, ask: Ask, signed: Signed) -> Member:
    """Return the member that signed the ask."""
    member = ledger.member_by_key(ask.identity)
    if member is None:
        raise Refusal("unknown-member", f"nobody here has the key {ask.identity[:16]}…; ask the operator to enrol it")
    if not is_from(signed, member.key):
        raise Refusal("bad-signature", f"the signature is not that of {member.name} over this ask")
    return member


def _subject(ledger: Ledger, ask: Ask, asker: Member) -> Member:
    """Return the member whose data it is about, if `asker` may ask for that."""
    own = ask.subject in ("", asker.fingerprint)
    if asker.role != "operator":
        if not own:
            raise Refusal("not-yours", "a device can ask only about its own data")
        if ask.granularity == "class":
            raise Refusal("operators-only", "a class lies on many devices: only an operator can ask to forget it")
        return asker
    if ask.granularity == "class":
        if not own:
            raise Refusal("malformed", "a class is forgotten wherever it lies; name no device")
        return asker
    if own:
        raise Refusal("nothing-contributed", "an operator holds no data; name the device: --device FINGERPRINT")
    if ask.granularity == "sample":
        raise Refusal("devices-only", "only the device can name its samples: which they are does not leave it")
    subject = ledger.member_by_key(ask.subject)
    if subject is None or subject.role == "operator":
        raise Refusal("unknown-subject", f"no device here has the key {ask.subject[:16]}…")
    return subject


def _earlier(ledger: Ledger, ask: Ask, subject: Member) -> Request | None:
    """Return a request that covers this one already: the device leaves, or the very same samples or classes."""
    for request in ledger.requests(subject=subject.number):
        if request.status in ("refused", "failed"):
            continue
        if ask.granularity == "class":
            if request.status in OPEN and set(ask.classes) <= set(request.classes):
                return request
        elif request.granularity == "client" or (
            ask.granularity == request.granularity == "sample" and request.samples_digest == ask.samples_digest
        ):
            return request
    return None


def _check_contributed(ledger: Ledger, ask: Ask, subject: Member) -> None:
    """Refuse to forget what the model never saw."""
    if ask.granularity == "class":
        if ledger.last_step() is None:
            raise Refusal("nothing-contributed", "nothing was trained yet: there is nothing to forget")
        return
    steps = ledger.contributed(subject.number)
    if not steps:
        raise Refusal(
            "nothing-contributed",
            f"no finished round used data of {subject.name}: there is nothing to forget; to leave, stop its node",
        )
    most = max(part.num_examples for step in steps for part in step.contributions if part.member == subject.number)
    if ask.granularity == "sample" and ask.samples_count > most:
        raise Refusal("too-many-samples", f"{subject.name} never trained with more than {most} samples at once")


def _check_quotas(ledger: Ledger, asker: Member, rules: Rules, now: float) -> None:
    """Refuse more than a key, or all keys together, may ask for."""
    day = now - DAY
    checks = (
        (ledger.count(asked_by=asker.fingerprint, status=OPEN), rules.open_per_key, "under way for this key"),
        (ledger.count(asked_by=asker.fingerprint, since=day), rules.daily_per_key, "of this key in 24 hours"),
        (ledger.count(status=OPEN), rules.open_in_all, "under way in this federation"),
        (ledger.count(since=day), rules.daily_in_all, "in this federation in 24 hours"),
    )
    for count, most, what in checks:
        if count >= most:
            raise Refusal("quota", f"there are {count} requests {what}, and at most {most} are taken; ask again later")
