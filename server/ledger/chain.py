"""The hash chain of the audit log: what a digest covers, and what seals its end."""

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedquit.errors import InputError

START = "0" * 64
HEAD = b"fedquit ledger head v1\n"


class Seal(Protocol):
    """A key that seals the head of the chain."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature of `message`."""
        ...

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Say whether `signature` is that of `message`."""
        ...


class Ed25519Seal:
    """A seal made with an Ed25519 key; with the public key alone it can only verify.

    >>> seal = Ed25519Seal(Ed25519PrivateKey.generate())
    >>> seal.verify(b"head", seal.sign(b"head")), seal.verify(b"other", seal.sign(b"head"))
    (True, False)
    """

    def __init__(self, key: Ed25519PrivateKey | Ed25519PublicKey) -> None:
        self._private = key if isinstance(key, Ed25519PrivateKey) else None
        self._public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key

    def sign(self, message: bytes) -> bytes:
        """Return the signature of `message`.

        Raises:
            InputError: only the public key is here.
        """
        if self._private is None:
            raise InputError("the ledger cannot be sealed with a public key; give the private one")
        return self._private.sign(message)

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Say whether `signature` is that of `message`."""
        try:
            self._public.verify(signature, message)
        except InvalidSignature:
            return False
        return True


def canonical(document: Any) -> bytes:
    """Return the one JSON text of `document` (RFC 8785), in UTF-8.

    Raises:
        InputError: JSON cannot say it: NaN, an infinity, bytes, an integer beyond 2**53, ...

    >>> canonical({"b": 1.0, "a": [1e-5, "é"]}).decode()
    '{"a":[0.00001,"é"],"b":1}'
    """
    try:
        return rfc8785.dumps(document)
    except (rfc8785.CanonicalizationError, UnicodeError, TypeError) as error:
        raise InputError(f"this cannot be written into the ledger: {error}") from None


def digest_of(document: Any) -> str:
    """Return the hex SHA-256 of the canonical JSON of `document`.

    >>> digest_of({})[:16]
    '44136fa355b3678a'
    """
    return hashlib.sha256(canonical(document)).hexdigest()


def event_digest(event: Mapping[str, Any]) -> str:
    """Return the digest of an event: over all its fields but `digest`, so over the digest of the one before too.

    >>> first = {"number": 1, "at": 0.0, "kind": "note", "facts": {}, "previous": START}
    >>> event_digest(first) == event_digest({**first, "digest": "any"})
    True
    """
    return digest_of({name: value for name, value in event.items() if name != "digest"})


def head_message(number: int, digest: str) -> bytes:
    r"""Return the bytes that the seal of a chain of `number` events is over.

    >>> head_message(1, "ab")
    b'fedquit ledger head v1\n{"digest":"ab","number":1}'
    """
    return HEAD + canonical({"number": number, "digest": digest})
