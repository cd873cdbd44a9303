"""May this ask be taken? One decision over the ledger, for asks that come to the service or ride in a device's reply.

An ask is taken if a member signed these exact bytes for this federation, lately, about data that it may ask for and
that was contributed. What would repeat an earlier request gives that one. Every refusal has a code and a sentence, and
the ledger hears of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Self

from fedquit.client.requests.proto.forget_pb2 import Ask
from fedquit.client.requests.signed_request import LARGEST, Signed, is_from, read_ask
from fedquit.errors import InputError, MalformedError, RefusalError, StateError
from fedquit.server.federation import Federation
from fedquit.server.ledger import UNDER_WAY, Ledger, Member, NewRequest, Request, RequestState
from fedquit.server.service.refusal import audit, revoked, signer
from fedquit.settings import num_classes

DAY = 86_400.0
OPEN = ("asked", *UNDER_WAY)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator allows.

    Attributes:
        federation: its name, which every ask must carry.
        fresh: seconds that an ask's time may differ from the server's.
        deadline: seconds within which a request must be done.
        open_per_key: requests of one key that may wait or be under way at once, with those that were refused or have
            failed in the last 24 hours; `daily_per_key`: in 24 hours, however they ended.
        open_in_all: of all keys together, at once.
        classes: how many the model has, numbered from 0; 0: that is not known.
    """

    federation: str
    fresh: float = 600.0
    deadline: float = 30 * DAY
    open_per_key: int = 20
    daily_per_key: int = 100
    open_in_all: int = 1_000
    classes: int = 0

    @classmethod
    def of(cls, federation: Federation) -> Self:
        """Return what the server.toml of a federation allows.

        >>> Rules.of(Federation(name="clinics", asking={"fresh": "1m"})).fresh
        60.0
        """
        asking = federation.asking
        return cls(
            federation.name,
            asking.fresh,
            federation.forgetting.deadline,
            asking.open_per_key,
            asking.daily_per_key,
            asking.open_in_all,
            num_classes(federation.settings().classes),
        )


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
) -> Admitted:
    """Take an ask into the ledger, or give the request that it repeats.

    Args:
        ledger: where requests are.
        signed: the ask.
        rules: what the operator allows.
        now: Unix seconds.
        came_from: for the audit: an address, or "reply" for an ask that rode in a device's reply.

    Raises:
        RefusalError: it is not taken; the ledger has heard of it.
    """
    try:
        found = decide(ledger, signed, rules, now=now)  # what is refused waits for nobody
        if isinstance(found, NewRequest):
            with _one_at_a_time:
                found = decide(ledger, signed, rules, now=now)
                if isinstance(found, NewRequest):
                    request, new = _taken(ledger, found)
                    return Admitted(request, known=not new)
        return Admitted(found, known=True)
    except RefusalError as refusal:
        audit(ledger, refusal, {"ask": signed.id, "from": came_from})
        raise


def decide(ledger: Ledger, signed: Signed, rules: Rules, *, now: float) -> NewRequest | Request:
    """Decide what becomes of an ask; nothing is written.

    Returns:
        What the ledger should take, or the request that is there already.

    Raises:
        RefusalError: it cannot be taken.
    """
    if len(signed.ask) > LARGEST:
        raise RefusalError("too-large", f"the ask has {len(signed.ask)} bytes; at most {LARGEST} are read")
    try:
        ask = read_ask(signed.ask)
    except MalformedError as error:
        raise RefusalError("malformed", str(error)) from error
    asker = signer(ledger, ask.identity, partial(is_from, signed))
    with _about(asker):
        if ask.federation != rules.federation:
            raise RefusalError(
                "wrong-federation", f"this is the federation '{rules.federation}', not '{ask.federation}'"
            )
        known = find(ledger, signed.id)
        if known is not None:
            return known
        off = now - ask.created_at
        if abs(off) > rules.fresh:
            when = f"{abs(off):.0f} s {'old' if off > 0 else 'ahead of the server'}"
            raise RefusalError("stale", f"the ask is {when}; at most {rules.fresh:.0f} s: set the clock and ask again")
        subject = _subject(ledger, ask, asker)
        _check_classes(ask, rules)
        earlier = _earlier(ledger, ask, subject)
        if earlier is not None:
            return ledger.request(earlier.id)
        _check_quotas(ledger, asker, rules, now)
        _check_contributed(ledger, ask, subject)
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


def _taken(ledger: Ledger, new: NewRequest) -> tuple[Request, bool]:
    """Store a request; the key may have been revoked since it was looked at, and then it is not taken."""
    try:
        return ledger.take(new)
    except StateError:
        asker = ledger.member_by_key(new.asked_by)
        if asker is None or asker.status != "revoked":
            raise
        raise revoked(asker) from None


def find(ledger: Ledger, request: str) -> Request | None:
    """Return the request of that id, or None."""
    try:
        return ledger.request(request)
    except InputError:
        return None


@contextmanager
def _about(asker: Member) -> Iterator[None]:
    """Name in a refusal the member that is proven to have asked."""
    try:
        yield
    except RefusalError as refusal:
        refusal.member = asker.number
        raise


def _subject(ledger: Ledger, ask: Ask, asker: Member) -> Member:
    """Return the member whose data it is about, if `asker` may ask for that."""
    own = ask.subject in ("", asker.fingerprint)
    if asker.role != "operator":
        if not own:
            raise RefusalError("not-yours", "a device can ask only about its own data")
        if ask.granularity == "class":
            raise RefusalError("operators-only", "a class lies on many devices: only an operator can ask to forget it")
        return asker
    if ask.granularity == "class":
        if not own:
            raise RefusalError("malformed", "a class is forgotten wherever it lies; name no device")
        return asker
    if own:
        raise RefusalError("nothing-contributed", "an operator holds no data; name the device: --device FINGERPRINT")
    if ask.granularity == "sample":
        raise RefusalError("devices-only", "only the device can name its samples: which they are does not leave it")
    subject = ledger.member_by_key(ask.subject)
    if subject is None or subject.role == "operator":
        raise RefusalError("unknown-subject", f"no device here has the key {ask.subject[:16]}…")
    return subject


def _check_classes(ask: Ask, rules: Rules) -> None:
    """Refuse classes that there are not: no device could ever say that it has dropped them."""
    beyond = [label for label in ask.classes if rules.classes and label >= rules.classes]
    if beyond:
        raise RefusalError("unknown-class", f"there is no class {beyond[0]} here: they are 0 to {rules.classes - 1}")


def _earlier(ledger: Ledger, ask: Ask, subject: Member) -> RequestState | None:
    """Return a request that covers this one already: the device leaves, or the very same samples or classes."""
    for request in ledger.request_lines(subject=subject.number):
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
    """Refuse to forget what the model never saw; which samples that is, and how many, only their device knows."""
    if ask.granularity == "class":
        if ledger.last_step() is None:
            raise RefusalError("nothing-contributed", "nothing was trained yet: there is nothing to forget")
        return
    if not ledger.has_contributed(subject.number):
        raise RefusalError(
            "nothing-contributed",
            f"no finished round used data of {subject.name}: there is nothing to forget; to leave, stop its node",
        )


def _check_quotas(ledger: Ledger, asker: Member, rules: Rules, now: float) -> None:
    """Refuse more than a key, or all keys together, may ask for."""
    under_way = [request for status in OPEN for request in ledger.requests(status=status)]
    own = sum(request.asked_by == asker.fingerprint for request in under_way)
    vain = ledger.asked_since(asker.fingerprint, now - DAY, statuses=("refused", "failed"))
    checks = (
        (own + vain, rules.open_per_key, "of this key under way, or refused or failed in 24 hours"),
        (ledger.asked_since(asker.fingerprint, now - DAY), rules.daily_per_key, "of this key in 24 hours"),
        (len(under_way), rules.open_in_all, "under way in this federation"),
    )
    for count, most, what in checks:
        if count >= most:
            raise RefusalError("quota", f"there are {count} requests {what}; at most {most} are taken: ask again later")
