"""An ask sent in a device's next reply (piggybacked), for a device that cannot reach the forget service itself.

It is signed when it is sent and not when it is stored: rounds may be an hour apart, and the service takes an ask only
for some minutes after it was made. It is sent as the same bytes until the server says that it has it or they would be
too old; then it is signed again, and what the first was about stays marked. A reply with an ask is not aggregated, so
one that the server will not take must not be sent for ever: where the server says why, or after a few times, it stays
in the record, for its owner to see.
"""

from fedquit.client.device.record import Ask, Record
from fedquit.client.device.record.record_rows import PASSING, SIGNINGS
from fedquit.client.kit import Kit
from fedquit.client.requests.keys import read_private
from fedquit.client.requests.signed_request import make_ask

FRESH = 500.0  # seconds; the service takes asks of the last 600


def riding_ask(kit: Kit, record: Record) -> dict[str, dict[str, str | bytes]]:
    """Return the record `ask` of a reply with the ask that waits longest, marked before it travels; or nothing."""
    for first in record.asks():
        fresh = bool(first.request) and 0 <= record.now() - first.signed_at < FRESH
        if rides(first.signings, first.refused) or (fresh and first.refused in PASSING):
            break
    else:
        return {}
    signed = first if fresh else _signed(kit, record, first)
    return {} if signed is None else {"ask": {"ask": signed.ask, "signature": signed.signature}}


def rides(signings: int, refused: str) -> bool:
    """Say whether an ask is to be signed once more, after this many attempts and this refusal.

    >>> rides(1, "quota"), rides(1, "nothing-contributed")
    (True, False)
    """
    return signings < SIGNINGS and refused in PASSING


def _signed(kit: Kit, record: Record, waiting: Ask) -> Ask | None:
    """Sign an ask, and return it as it then is; None: it was withdrawn meanwhile."""
    signed = make_ask(
        read_private(kit.key_file),
        kit.federation,
        "sample" if waiting.digests else "client",
        samples=waiting.digests,
        salt=record.salt(waiting.digests) if waiting.digests else b"",
        note=waiting.note,
        now=record.now(),
    )
    record.signed(waiting.number, signed.id, signed.ask, signed.signature)
    return next((ask for ask in record.asks() if ask.number == waiting.number), None)
