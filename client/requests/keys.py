"""Key files of members: NIST P-384, in OpenSSH's format, which Flower's nodes read too; PEM is read as well.

A member is its public key: DER (SubjectPublicKeyInfo) in code, its SHA-256 in hex as the `fingerprint` for people.
"""

import hashlib
import os
import re
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from fedquit.errors import KeyFileError

PrivateKey = ec.EllipticCurvePrivateKey
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
LARGEST_FILE = 16_384  # bytes; a P-384 key file has fewer than 1,000


def new_key() -> PrivateKey:
    """Make a private key.

    >>> new_key().curve.name
    'secp384r1'
    """
    return ec.generate_private_key(ec.SECP384R1())


def public_der(key: PrivateKey) -> bytes:
    """Return the public half of `key`, as DER.

    >>> len(public_der(new_key()))
    120
    """
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(der: bytes) -> str:
    """Return the name of a public key: hex SHA-256 of its DER.

    >>> fingerprint(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(der).hexdigest()


def sign(key: PrivateKey, content: bytes) -> bytes:
    """Sign `content` (ECDSA, SHA-384); return the signature as DER, at most 104 bytes."""
    return key.sign(content, ec.ECDSA(SHA384()))


def is_usable(der: bytes) -> bool:
    """Tell whether a public key (DER) is one with which a member can join, ask and call: NIST P-384.

    >>> is_usable(public_der(new_key())), is_usable(b"no key")
    (True, False)
    """
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)


def is_signed(der: bytes, content: bytes, signature: bytes) -> bool:
    """Tell whether `signature` is that of the owner of the public key `der` over `content`.

    >>> key = new_key()
    >>> is_signed(public_der(key), b"yes", sign(key, b"yes")), is_signed(public_der(key), b"no", sign(key, b"yes"))
    (True, False)
    """
    try:
        key = load_der_public_key(der)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            return False
        key.verify(signature, content, ec.ECDSA(SHA384()))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


def read_private(path: Path) -> PrivateKey:
    """Read a private key that nobody but its owner may read.

    Raises:
        KeyFileError: it cannot be read, others may read it, or it is no P-384 key without a passphrase.
    """
    content = _content(path)
    check_private(path)
    try:
        ssh = b"OPENSSH PRIVATE KEY" in content
        key = load_ssh_private_key(content, None) if ssh else load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} is no private key without a passphrase; {_make_one(path)}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise KeyFileError(f"{path} is not a NIST P-384 key; {_make_one(path)}")
    return key


def read_public(path: Path) -> bytes:
    """Read a public key file (OpenSSH or PEM); return it as DER.

    Raises:
        KeyFileError: it cannot be read, or is no P-384 public key.
    """
    content = _content(path)
    try:
        pem = content.lstrip().startswith(b"-----BEGIN")
        key = load_pem_public_key(content) if pem else load_ssh_public_key(content.strip())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} is no public key; ssh-keygen -y -f KEY prints that of a private key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise KeyFileError(f"{path} is not a NIST P-384 public key; make one with: ssh-keygen -t ecdsa -b 384")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def check_private(path: Path) -> None:
    """Refuse a private key file that others may read, where the platform knows such rights.

    Raises:
        KeyFileError: others may read it.
    """
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise KeyFileError(f"others may read the private key {path}; close it first: chmod 600 {path}")


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise KeyFileError(f"cannot read the key {path}: {error.strerror or error}") from error
    if len(content) > LARGEST_FILE:
        raise KeyFileError(f"{path} is too large for a key file")
    return content


def _make_one(path: Path) -> str:
    return f"make one with: ssh-keygen -t ecdsa -b 384 -N '' -f {path}"
