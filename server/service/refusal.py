"""Refusals: each has a code for programs, a sentence for people, and a line in the ledger's log."""

from collections.abc import Callable

from fedquit.errors import RefusalError
from fedquit.server.ledger import Ledger, Member


def slow_down(what: str) -> RefusalError:
    """Return the refusal that says: the same again, a little later.

    >>> slow_down("too many calls").code
    'slow-down'
    """
    return RefusalError("slow-down", f"{what}; try again in a few seconds")


def audit(ledger: Ledger, refusal: RefusalError, facts: dict[str, str]) -> None:
    """Tell the ledger of a refusal, once; it bounds what it writes of many."""
    if not refusal.audited:
        refusal.audited = True
        ledger.turn_away(refusal.code, member=refusal.member, facts={**facts, "why": str(refusal)})


def signer(ledger: Ledger, identity: str, is_from: Callable[[bytes], bool]) -> Member:
    """Return the member that signed something.

    Args:
        ledger: knows the members.
        identity: fingerprint of the key that is said to have signed.
        is_from: tells whether the owner of a public key (DER) did.

    Raises:
        RefusalError: nobody here has that key, it did not sign, or it is revoked.
    """
    member = ledger.member_by_key(identity)
    if member is None:
        why = "ask the operator to enrol it, or use the one that replaced it"
        raise RefusalError("unknown-member", f"nobody here has the key {identity[:16]}…; {why}")
    if not is_from(member.key):
        raise RefusalError("bad-signature", f"the signature is not that of {member.name} over these bytes")
    if member.status == "revoked":
        raise revoked(member)
    return member


def revoked(member: Member) -> RefusalError:
    """Return the refusal of whatever a revoked key signs."""
    text = f"the key of {member.name} is revoked: nothing that it signs is taken; ask the operator for a new kit"
    return RefusalError("revoked", text, member=member.number)
