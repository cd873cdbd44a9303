"""Who calls? Each call that reads proves it with a fresh signature over its method and the request that it is about."""

from collections.abc import Iterable
from functools import partial

from fedquit.client.requests.call_auth import CALL, SIGNATURE, Proof, is_from, read_call
from fedquit.errors import MalformedError, RefusalError
from fedquit.server.ledger import Ledger, Member, Request
from fedquit.server.service.admission import find
from fedquit.server.service.limits import Once
from fedquit.server.service.refusal import signer

FRESH = 300.0  # seconds that the clock of a caller may differ from ours


def caller(
    ledger: Ledger,
    metadata: Iterable[tuple[str, str | bytes]],
    once: Once,
    *,
    federation: str,
    method: str,
    request: str,
    now: float,
) -> Member:
    """Return the member that makes this call; a member that has withdrawn may still ask how its request fares.

    Args:
        ledger: knows the members.
        metadata: of the call.
        once: proofs that were used.
        federation: whose service this is.
        method: what is called.
        request: the id that it is about, or "".
        now: Unix seconds.

    Raises:
        RefusalError: it does not prove who calls.
    """
    parts = {key: value for key, value in metadata if isinstance(value, bytes)}
    try:
        proof = Proof(parts.get(CALL, b""), parts.get(SIGNATURE, b""))
        call = read_call(proof)
    except MalformedError as error:
        raise RefusalError("no-proof", str(error)) from error
    member = signer(ledger, call.identity, partial(is_from, proof))
    if (call.federation, call.method, call.request) != (federation, method, request):
        raise RefusalError("no-proof", "the proof is for another call", member=member.number)
    off = now - call.created_at
    if abs(off) > FRESH:
        when = f"{abs(off):.0f} s {'behind' if off > 0 else 'ahead of'} the server's"
        raise RefusalError(
            "stale", f"the caller's clock is {when}; at most {FRESH:.0f} s: set it", member=member.number
        )
    if not once.first_time(member.fingerprint, call.nonce, now=now):
        raise RefusalError("replayed", "this proof was used before; make a new one for each call", member=member.number)
    return member


def visible(ledger: Ledger, member: Member, request: str) -> Request:
    """Return a request that `member` may see: its own, or any if it is an operator.

    Raises:
        RefusalError: there is no such request, as far as this member may know.
    """
    found = find(ledger, request)
    if found is None or not may_see(member, found):
        raise RefusalError(
            "no-such-request", f"there is no request {request[:64]} of {member.name}", member=member.number
        )
    return found


def may_see(member: Member, request: Request) -> bool:
    """Tell whether a request is the member's own, or the member an operator."""
    return member.role == "operator" or request.subject == member.number or request.asked_by == member.fingerprint
