"""A signed envelope of exact bytes: DSSE v1 with Ed25519, in one form only.

DSSE (https://github.com/secure-systems-lab/dsse) signs the payload's type and its bytes, so nothing is parsed before it
is known to be signed. JSON and base64 have many forms of the same content; here only one is taken, so a receipt in
which any byte was changed does not verify, even where its meaning would be the same.
"""

import base64
import hashlib
import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedquit.errors import BadReceiptError

TYPE = "application/vnd.in-toto+json"
LARGEST = 64_000_000  # bytes; a receipt of ten thousand rounds has some 2 MB: for 300,000, a round an hour for 34 years


def canonical(document: Any) -> bytes:
    """Return a document as the only JSON that is taken: keys in order, no spaces, ASCII.

    >>> canonical({"b": 1, "a": [2, 3]})
    b'{"a":[2,3],"b":1}'
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def pre_authentication(kind: str, payload: bytes) -> bytes:
    """Return what is signed: DSSE's encoding of the type and the payload.

    >>> pre_authentication("t", b"hello")
    b'DSSEv1 1 t 5 hello'
    """
    type_bytes = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(type_bytes), type_bytes, len(payload), payload)


def key_id(key: Ed25519PublicKey) -> str:
    """Return the name of a key: hex SHA-256 of its DER SubjectPublicKeyInfo."""
    return hashlib.sha256(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def sealed(payload: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the envelope of a payload.

    >>> key = Ed25519PrivateKey.generate()
    >>> unsealed(sealed(b"{}", key), key.public_key())
    b'{}'
    """
    signature = key.sign(pre_authentication(TYPE, payload))
    return _envelope(payload, key_id(key.public_key()), signature)


def unsealed(envelope: bytes, key: Ed25519PublicKey) -> bytes:
    """Return the payload of an envelope that `key` signed.

    Raises:
        BadReceiptError: it is no envelope, of another key, or a byte of it was changed.
    """
    if len(envelope) > LARGEST:
        raise BadReceiptError(f"the receipt has {len(envelope)} bytes; none has more than {LARGEST}")
    payload, named, signature = _taken_apart(envelope)
    if named != key_id(key):
        raise BadReceiptError(f"the receipt is signed by key {named[:16]}, not by the given key {key_id(key)[:16]}")
    try:
        key.verify(signature, pre_authentication(TYPE, payload))
    except InvalidSignature:
        raise BadReceiptError(
            "the signature does not fit: the receipt was altered, or this key did not sign it"
        ) from None
    if _envelope(payload, named, signature) != envelope:
        raise BadReceiptError("the envelope is not in the form in which it was signed: the receipt was altered")
    return payload


def _envelope(payload: bytes, named: str, signature: bytes) -> bytes:
    return canonical(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": TYPE,
            "signatures": [{"keyid": named, "sig": base64.b64encode(signature).decode()}],
        }
    )


def _taken_apart(envelope: bytes) -> tuple[bytes, str, bytes]:
    try:
        document = json.loads(envelope)
        ((named, signature),) = ((entry["keyid"], entry["sig"]) for entry in document["signatures"])
        payload = base64.b64decode(document["payload"], validate=True)
        return payload, str(named), base64.b64decode(signature, validate=True)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadReceiptError("this is not a receipt: it is not an envelope with one signature") from None
