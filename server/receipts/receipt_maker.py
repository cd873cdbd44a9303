"""Who makes the receipt of a request that is done, if there is a key to sign it with."""

from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger
from fedquit.server.receipts.make_receipt import Outcome, make_receipt


class Receipts(Protocol):
    """Makes receipts."""

    @property
    def missing(self) -> str:
        """Why there are none; empty: there are."""
        ...

    def make(self, ledger: Ledger, request: str, outcome: Outcome, now: float) -> bytes | None:
        """Return the receipt of a request that has recovered; None: there is none.

        Args:
            ledger: with the request and every step up to now.
            request: its id.
            outcome: what the ledger does not know.
            now: Unix seconds.
        """
        ...


@dataclass(frozen=True, slots=True)
class NoReceipts:
    """Makes none, as the server has no key.

    >>> NoReceipts().missing
    'no receipt: no key'
    """

    missing: str = "no receipt: no key"

    def make(self, ledger: Ledger, request: str, outcome: Outcome, now: float) -> bytes | None:
        """See `Receipts`."""
        del ledger, request, outcome, now
        return None


@dataclass(frozen=True, slots=True)
class SignedReceipts:
    """Makes receipts signed with the server's key."""

    federation: Federation
    key: Ed25519PrivateKey
    missing: str = ""

    def make(self, ledger: Ledger, request: str, outcome: Outcome, now: float) -> bytes | None:
        """See `Receipts`."""
        return make_receipt(ledger, request, federation=self.federation, key=self.key, outcome=outcome, now=now)
