"""Who calls: every call that only reads carries a signed, fresh proof for that one call in its metadata."""

import os
import time
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from fedquit.client.requests.keys import FINGERPRINT, PrivateKey, fingerprint, is_signed, public_der, sign
from fedquit.client.requests.proto.forget_pb2 import Call
from fedquit.client.requests.signed_request import LARGEST_SIGNATURE, LONGEST_NAME, NONCE
from fedquit.errors import MalformedError

PREFIX = b"fedquit call v1\n"
METHODS = ("Status", "Watch", "Receipt", "List")
CALL, SIGNATURE = "fedquit-call-bin", "fedquit-signature-bin"  # keys of the metadata
LARGEST = 512  # bytes


@dataclass(frozen=True, slots=True)
class Proof:
    """A call's proof as it travels: exact bytes, and the signature over them."""

    call: bytes
    signature: bytes

    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        """Return it as metadata of gRPC."""
        return (CALL, self.call), (SIGNATURE, self.signature)


def prove(key: PrivateKey, federation: str, method: str, request: str = "", *, now: float | None = None) -> Proof:
    """Sign a call of `method` about `request`.

    >>> from fedquit.client.requests.keys import new_key, public_der
    >>> key = new_key()
    >>> proof = prove(key, "clinics", "List")
    >>> read_call(proof).method, is_from(proof, public_der(key))
    ('List', True)
    """
    call = Call(
        federation=federation,
        identity=fingerprint(public_der(key)),
        method=method,
        request=request,
        created_at=int(time.time() if now is None else now),
        nonce=os.urandom(NONCE),
    ).SerializeToString()
    return Proof(call, sign(key, PREFIX + call))


def read_call(proof: Proof) -> Call:
    """Read what a proof says; whether it is signed is not looked at.

    Raises:
        MalformedError: it is no proof of a call.
    """
    call = Call()
    try:
        if len(proof.call) > LARGEST:
            raise DecodeError
        call.ParseFromString(proof.call)
    except DecodeError as error:
        raise MalformedError("the call does not prove who calls") from error
    if not (
        call.method in METHODS
        and FINGERPRINT.fullmatch(call.identity)
        and (not call.request or FINGERPRINT.fullmatch(call.request))
        and len(call.federation) <= LONGEST_NAME
        and len(call.nonce) == NONCE
    ):
        raise MalformedError("the proof of who calls is malformed")
    return call


def is_from(proof: Proof, der: bytes) -> bool:
    """Tell whether the owner of the public key `der` signed this call."""
    return len(proof.signature) <= LARGEST_SIGNATURE and is_signed(der, PREFIX + proof.call, proof.signature)
