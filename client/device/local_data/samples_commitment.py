"""Which samples a message is about, said so that only their owner can show which they are.

A device never names its samples to anybody. What it sends is a commitment: SHA-256 over a constant prefix, a salt of 32
random bytes, and the digest of the set. The salt is drawn once for a set and stays in the device's record. Without it
nobody can test a guess, not even with the very bytes of the samples; and no device can find another set with the same
commitment later, so whoever is given the salt can check what the device said.

Asks of version 1 hold the digest of the set itself: whoever has the samples can confirm it.
"""

import hashlib
from collections.abc import Iterable

from fedquit.errors import MalformedError

PREFIX = b"fedquit samples v2\n"
SALT = 32  # bytes
DIGEST = 32  # bytes of the digest of a sample


def set_digest(digests: Iterable[bytes]) -> str:
    """Return the digest of a set of samples: hex SHA-256 over their sorted digests. It is not to leave the device.

    Raises:
        MalformedError: a digest is not 32 bytes long.

    >>> set_digest([b"b" * 32, b"a" * 32]) == set_digest([b"a" * 32, b"b" * 32, b"b" * 32])
    True
    """
    each = sorted(set(digests))
    if any(len(digest) != DIGEST for digest in each):
        raise MalformedError(f"the digest of a sample has {DIGEST} bytes")
    return hashlib.sha256(b"".join(each)).hexdigest()


def commitment(digests: Iterable[bytes], salt: bytes) -> str:
    """Return the commitment to a set of samples, as 64 hex digits.

    Args:
        digests: of the samples, 32 bytes each.
        salt: 32 random bytes, which the device keeps.

    Raises:
        MalformedError: the salt or a digest is not 32 bytes long.

    >>> commitment([b"a" * 32], b"s" * 32) == commitment([b"a" * 32], b"t" * 32)
    False
    """
    if len(salt) != SALT:
        raise MalformedError(f"the salt of a set of samples has {SALT} bytes")
    return hashlib.sha256(PREFIX + salt + bytes.fromhex(set_digest(digests))).hexdigest()
