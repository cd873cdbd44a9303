"""The signed list of a federation's revoked keys, with which a receipt can be compared offline.

A receipt says by which key was asked, and when. Whoever has the list knows from when on that key's word counted for
nothing. The list is an in-toto statement in the envelope of receipts: its subjects are the keys, by the SHA-256 of
their DER, which is their fingerprint.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedquit.client.receipts.envelope import canonical, sealed, unsealed
from fedquit.errors import BadReceiptError

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:fedquit:revocations:v1"


@dataclass(frozen=True, slots=True)
class Revocations:
    """A list that verified.

    Attributes:
        federation: its name.
        made_at: Unix seconds when the list was made; it says nothing of what was revoked later.
        revoked: fingerprint of a key -> Unix seconds when it was revoked.
    """

    federation: str
    made_at: float
    revoked: Mapping[str, float]

    def check(self, predicate: Mapping[str, Any]) -> None:
        """Hold a receipt against the list.

        Args:
            predicate: of the receipt.

        Raises:
            BadReceiptError: the list is of another federation, or the key that asked was revoked before it asked.
        """
        if predicate["federation"] != self.federation:
            raise BadReceiptError(
                f"the list of revoked keys is of the federation '{self.federation}', not '{predicate['federation']}'"
            )
        request = predicate["request"]
        at = self.revoked.get(request["asked_by"])
        if at is not None and at <= request["asked_at"]:
            raise BadReceiptError(
                f"the key {request['asked_by'][:16]}, which asked, was revoked {request['asked_at'] - at:.0f} s before"
            )


def signed_revocations(federation: str, revoked: Mapping[str, float], now: float, key: Ed25519PrivateKey) -> bytes:
    """Return the signed list of the keys that are revoked `now` (Unix seconds).

    >>> key = Ed25519PrivateKey.generate()
    >>> read_revocations(signed_revocations("clinics", {"ab": 1.0}, 2.0, key), key.public_key()).revoked
    {'ab': 1.0}
    """
    document = {
        "_type": STATEMENT,
        "subject": [{"name": "key", "digest": {"sha256": name}} for name in sorted(revoked)],
        "predicateType": PREDICATE,
        "predicate": {"federation": federation, "made_at": now, "revoked": dict(revoked)},
    }
    return sealed(canonical(document), key)


def read_revocations(envelope: bytes, key: Ed25519PublicKey) -> Revocations:
    """Return what a list says, once it is known to be whole and signed by `key`.

    Raises:
        BadReceiptError: it does not verify, or is no list of revoked keys.
    """
    try:
        document = json.loads(unsealed(envelope, key))
        predicate = document["predicate"]
        revoked = {str(name): float(at) for name, at in dict(predicate["revoked"]).items()}
        found = Revocations(str(predicate["federation"]), float(predicate["made_at"]), revoked)
        whole = document["predicateType"] == PREDICATE and all(map(math.isfinite, revoked.values()))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        whole = False
    if not whole:
        raise BadReceiptError("what was signed is not a list of revoked keys; 'fedquit member revocations' makes one")
    return found
