"""What seals the end of the audit log: an Ed25519 key."""

from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from fedquit.errors import InputError


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


def read_seal(path: Path) -> Ed25519Seal:
    """Read a private or public Ed25519 key in PEM.

    Raises:
        InputError: it cannot be read, or is another kind of key.
    """
    try:
        content = path.read_bytes()
        private = b"PRIVATE KEY" in content
        key = load_pem_private_key(content, password=None) if private else load_pem_public_key(content)
    except OSError as error:
        raise InputError(f"cannot read the key {path}: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(f"{path} is not a key in PEM (without a password)") from None
    if not isinstance(key, Ed25519PrivateKey | Ed25519PublicKey):
        raise InputError(f"{path} is not an Ed25519 key")
    return Ed25519Seal(key)
