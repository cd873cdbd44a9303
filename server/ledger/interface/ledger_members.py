"""The members in a ledger."""

from fedquit.server.ledger import members, requests
from fedquit.server.ledger.interface.open_ledger import OpenLedger
from fedquit.server.ledger.rows import Member, Request


class LedgerMembers(OpenLedger):
    """Who takes part, and by which keys."""

    def enrol(self, name: str, key: bytes, role: str = "device") -> Member:
        """Add a member by its public key (DER); a known key is the member that it was, also a withdrawn one.

        Raises:
            InputError: the role is neither "device" nor "operator", or there is no name or key.
        """
        with self._writing() as writing:
            return members.enrol(writing, name, key, role)

    def members(self) -> list[Member]:
        """Return all members, in the order of their numbers."""
        with self._database.read() as connection:
            return members.all_of(connection)

    def member(self, number: int) -> Member:
        """Return a member.

        Raises:
            InputError: there is none of that number.
        """
        with self._database.read() as connection:
            return members.by_number(connection, number)

    def member_by_key(self, fingerprint: str) -> Member | None:
        """Return the member with the public key of that fingerprint, or None."""
        with self._database.read() as connection:
            return members.by_key(connection, fingerprint)

    def revoke(self, number: int, *, reason: str = "", refuse_asked: bool = False) -> tuple[Member, list[Request]]:
        """Revoke the key of a member, for ever: nothing that it signs is taken from now on.

        What it asked before stands, as it was its owner's word as far as anybody knew; `refuse_asked` refuses, in the
        same transaction, what nobody has begun with. What is under way goes on: its device may be at work.

        Returns:
            The member, and the requests that were refused.

        Raises:
            InputError: there is no such member.
        """
        with self._writing() as writing:
            member = members.revoke(writing, number, reason)
            why = f"the key of {member.name}, which asked, was revoked"
            return member, requests.refuse_asked(writing, member.fingerprint, why) if refuse_asked else []

    def rotate(self, number: int, key: bytes, *, old: str = "") -> Member:
        """Replace the key of a member; nothing that the old one signs is taken from then on.

        Its number, what it contributed and what it asked stay. On the operator's word a revoked member becomes
        active again, or is withdrawn if its data was to be forgotten meanwhile.

        Args:
            number: of the member.
            key: the new public key, DER.
            old: fingerprint of the key on whose word this is done; "": it is the operator's.

        Raises:
            InputError: there is no such member, the new key is or was somebody's, or the old one is the member's no
                more or revoked.
        """
        with self._writing() as writing:
            return members.rotate(writing, number, key, old)

    def remove(self, number: int) -> Member:
        """Withdraw a device that never contributed anything.

        Raises:
            InputError: there is no such member, or it is no device.
            StateError: it contributed to a step.
        """
        with self._writing() as writing:
            return members.remove(writing, number)

    def replaced_keys(self) -> dict[str, tuple[int, bytes]]:
        """Return the keys (DER) that were replaced, by fingerprint, each with the number of its member."""
        with self._database.read() as connection:
            return members.replaced(connection)

    def revocations(self) -> dict[str, float]:
        """Return the fingerprints of the keys that are revoked or replaced, and since when each is (Unix seconds)."""
        with self._database.read() as connection:
            return members.revocations(connection)
