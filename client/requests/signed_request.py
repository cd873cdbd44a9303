"""The ask: what is to be forgotten, as exact bytes that are signed once and never serialised again.

The signature is over a constant prefix and the bytes, so that it can stand for nothing else; the id of the request is
the SHA-256 of the bytes, so that the same ask, sent again by whomever, is the same request.
"""

import hashlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from google.protobuf.message import DecodeError

from fedquit.client.device.local_data.samples_commitment import commitment
from fedquit.client.requests.keys import FINGERPRINT, PrivateKey, fingerprint, is_signed, public_der, sign
from fedquit.client.requests.proto.forget_pb2 import Ask, SignedAsk
from fedquit.errors import MalformedError

PREFIX = b"fedquit ask v1\n"
PLAIN, SALTED = 1, 2
"""Versions of an ask: in the second `samples_digest` is a commitment, see `samples_commitment`; it is about samples."""
LARGEST = 4096  # bytes of an ask with its signature
LARGEST_SIGNATURE = 104  # bytes: DER of two numbers of 384 bits
LONGEST_FRESH = 3600.0  # seconds that a server may allow between the time in an ask and its own
NONCE = 16  # bytes
LONGEST_NOTE = 500  # characters
LONGEST_NAME = 100  # characters of a federation's name
MOST_CLASSES = 100
MOST_SAMPLES = 2**53

Granularity = Literal["client", "sample", "class"]


@dataclass(frozen=True, slots=True)
class Signed:
    """An ask as it travels: its exact bytes and the signature over them."""

    ask: bytes
    signature: bytes

    @property
    def id(self) -> str:
        """The id of the request: hex SHA-256 of the exact bytes."""
        return hashlib.sha256(self.ask).hexdigest()

    def serialised(self) -> bytes:
        """Return both as one message."""
        return SignedAsk(ask=self.ask, signature=self.signature).SerializeToString()


def make_ask(
    key: PrivateKey,
    federation: str,
    granularity: Granularity = "client",
    *,
    subject: str = "",
    classes: Iterable[int] = (),
    samples: Iterable[bytes] = (),
    salt: bytes = b"",
    note: str = "",
    now: float | None = None,
    nonce: bytes | None = None,
) -> Signed:
    """Build an ask and sign it.

    Args:
        key: the key of the one who asks.
        federation: its name.
        granularity: all of a client, some of its samples, or classes wherever they lie.
        subject: fingerprint of the one whose data it is; empty: the one who asks.
        classes: the classes, for "class".
        samples: the digests (32 bytes each) of the samples, for "sample"; only their number and a commitment travel.
        salt: of the commitment: 32 random bytes, needed with samples; whoever signs keeps them.
        note: for people, at most 500 characters.
        now: Unix seconds; this moment if not given.
        nonce: 16 bytes; random if not given.

    Raises:
        MalformedError: it would not be taken by any service.

    >>> from fedquit.client.requests.keys import new_key, public_der
    >>> key = new_key()
    >>> signed = make_ask(key, "clinics", note="please")
    >>> read_ask(signed.ask).note, is_from(signed, public_der(key))
    ('please', True)
    """
    digests = set(samples)
    ask = Ask(
        version=SALTED if digests else PLAIN,
        federation=federation,
        identity=fingerprint(public_der(key)),
        subject=subject,
        granularity=granularity,
        classes=sorted(set(classes)),
        samples_count=len(digests),
        samples_digest=commitment(digests, salt) if digests else "",
        nonce=os.urandom(NONCE) if nonce is None else nonce,
        created_at=int(time.time() if now is None else now),
        note=note,
    )
    exact = ask.SerializeToString()
    read_ask(exact)
    return Signed(exact, sign(key, PREFIX + exact))


def read_ask(exact: bytes) -> Ask:
    """Read an ask from its exact bytes, and hold it to the rules that need no ledger.

    Raises:
        MalformedError: it is too large, is no ask, or says something that no ask may say.
    """
    if len(exact) > LARGEST:
        raise MalformedError(f"the ask has {len(exact)} bytes; at most {LARGEST} are read")
    ask = Ask()
    try:
        ask.ParseFromString(exact)
    except DecodeError as error:
        raise MalformedError("these bytes are no ask") from error
    wrong = _wrong(ask)
    if wrong:
        raise MalformedError(f"the ask cannot be taken: {wrong}")
    return ask


def is_from(signed: Signed, der: bytes) -> bool:
    """Tell whether the owner of the public key `der` signed these exact bytes."""
    return len(signed.signature) <= LARGEST_SIGNATURE and is_signed(der, PREFIX + signed.ask, signed.signature)


def read_signed(content: bytes) -> Signed:
    """Read an ask with its signature; the size is looked at first.

    Raises:
        MalformedError: it is too large, or is none.

    >>> read_signed(Signed(b"ask", b"signature").serialised())
    Signed(ask=b'ask', signature=b'signature')
    """
    if len(content) > LARGEST:
        raise MalformedError(f"the ask and its signature have {len(content)} bytes; at most {LARGEST} are read")
    message = SignedAsk()
    try:
        message.ParseFromString(content)
    except DecodeError as error:
        raise MalformedError("these bytes are no signed ask") from error
    return Signed(message.ask, message.signature)


def _wrong(ask: Ask) -> str:
    """Return what is wrong with an ask that could be read, or nothing."""
    size = ask.ByteSize()
    ask.DiscardUnknownFields()
    samples = bool(ask.samples_count), bool(FINGERPRINT.fullmatch(ask.samples_digest))
    rules = (
        (ask.version in (PLAIN, SALTED), f"its version is {ask.version}; this one reads {PLAIN} and {SALTED}"),
        (ask.version == PLAIN or ask.granularity == "sample", f"version {SALTED} is for asks about samples"),
        (ask.ByteSize() == size, f"it has fields that version {ask.version} does not know"),
        (0 < len(ask.federation) <= LONGEST_NAME, f"federation must have 1 to {LONGEST_NAME} characters"),
        (ask.federation.isprintable(), "federation must be printable"),
        (bool(FINGERPRINT.fullmatch(ask.identity)), "identity must be a fingerprint: 64 hex digits"),
        (not ask.subject or bool(FINGERPRINT.fullmatch(ask.subject)), "subject must be a fingerprint, or empty"),
        (ask.granularity in get_args(Granularity), "granularity must be client, sample or class"),
        (bool(ask.classes) == (ask.granularity == "class"), "classes are named if, and only if, it is about classes"),
        (len(ask.classes) <= MOST_CLASSES, f"at most {MOST_CLASSES} classes can be named"),
        (list(ask.classes) == sorted(set(ask.classes)), "classes must be named once each, in rising order"),
        (ask.granularity == "sample" or not (ask.samples_count or ask.samples_digest), "it is not about samples"),
        (ask.granularity != "sample" or all(samples), "samples need a count and a digest of 64 hex digits"),
        (ask.samples_count <= MOST_SAMPLES, f"at most {MOST_SAMPLES} samples can be named"),
        (len(ask.nonce) == NONCE, f"nonce must have {NONCE} bytes"),
        (ask.created_at > 0, "created_at must be Unix seconds"),
        (len(ask.note) <= LONGEST_NOTE, f"note must have at most {LONGEST_NOTE} characters"),
        (all(c.isprintable() or c == "\n" for c in ask.note), "note must be printable"),
    )
    return next((what for holds, what in rules if not holds), "")
