"""How the audit log names replies that are not used, and those that never came."""

from fedquit.server.coordinator.workplace import Workplace
from fedquit.strategies.guard.reply_checks import UNAVAILABLE
from fedquit.strategies.guard.round_screen import LEFT_OUT
from fedquit.strategies.rounds.reply import OnReply


def noted(place: Workplace, phase: str, number: int, request: str | None = None) -> OnReply:
    """Return what names in the audit log every reply that is not used, and every device that did not reply."""

    def on_reply(member: int, refused: str | None) -> None:
        if refused:
            facts = {"phase": phase, "step": number, "reason": refused[:500]}
            place.note(kind_of(refused), request=request, member=member, facts=facts)

    return on_reply


def kind_of(refused: str) -> str:
    """Return the kind of event for a reply that is not used: one that never came is not a bad one.

    >>> kind_of("'w' holds NaN or infinity"), kind_of("unavailable: Node Unavailable")
    ('reply-refused', 'no-reply')
    """
    kinds = {UNAVAILABLE: "no-reply", LEFT_OUT: "reply-left-out"}
    return next((kind for start, kind in kinds.items() if refused.startswith(start)), "reply-refused")
