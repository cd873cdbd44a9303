"""The hash chain of the audit log: what a digest covers, and what the seal of its end is over."""

import hashlib
from collections.abc import Mapping
from typing import Any

import rfc8785

from fedquit.errors import InputError

START = "0" * 64
HEAD = b"fedquit ledger head v1\n"


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
