"""A member's new key: the statement by which the holder of the old one says that another takes its place.

Both keys sign it: the old one says that its holder wants this, the new one that it is theirs. A statement serves once,
as afterwards the old key is the member's no more. Whoever lost the old key, or had it stolen, cannot make one: then the
operator gives the new key to `fedquit member rotate` on their own word.

    KIT/next.key, next.pub   the new key, until it takes the place of node.key and node.pub
    KIT/new-key.json         the statement, for the operator
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fedquit.client.kit import Kit
from fedquit.client.receipts.envelope import canonical
from fedquit.client.requests.keys import (
    PrivateKey,
    fingerprint,
    is_signed,
    is_usable,
    new_key,
    public_der,
    read_private,
    sign,
)
from fedquit.errors import InputError, RefusedError, StateError
from fedquit.files import write_whole

FORM = "fedquit new key v1"
STATEMENT, NEXT = "new-key.json", "next"
UNKNOWN = "unknown-member"
"""The service's word for a caller whose key is no member's."""
LARGEST = 16_384  # bytes of a statement


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a statement says: in which federation, whose key (its fingerprint), and the new key (DER)."""

    federation: str
    old: str
    key: bytes


def state_new_key(kit: Kit) -> Path:
    """Make a new key in a kit, if there is none yet, and the statement about it; return the statement's file.

    Raises:
        InputError: the kit's key cannot be used.
    """
    old, next_key = read_private(kit.key_file), kit.folder / f"{NEXT}.key"
    if not next_key.exists():
        _write_key(next_key, new_key())
    new = read_private(next_key)
    document = {"form": FORM, "federation": kit.federation, "old": fingerprint(public_der(old))}
    document["key"] = public_der(new).hex()
    signatures = {"by_old": sign(old, canonical(document)).hex(), "by_new": sign(new, canonical(document)).hex()}
    write_whole(kit.folder / STATEMENT, json.dumps({**document, **signatures}, indent=1).encode())
    return kit.folder / STATEMENT


def use_new_key(kit: Kit) -> str:
    """Put the new key of a kit in the place of its old one, which is removed; return the new key's fingerprint.

    The server must know the new key: until then only the old one is let in, and it alone can sign the statement.
    Killed anywhere and called again, it goes on: the private key takes its place first, by which the rest is made.

    Raises:
        InputError: there is no new key.
        StateError: the operator has not accepted the new key; nothing was changed.
        UnreachableError: the server cannot be asked; nothing was changed.
    """
    next_key, statement = kit.folder / f"{NEXT}.key", kit.folder / STATEMENT
    if next_key.exists():
        _check_accepted(kit, next_key)
        next_key.replace(kit.key_file)
    elif not statement.exists():
        raise InputError(f"{kit.folder} has no new key; make one first: fedquit rotate {kit.folder}")
    key = read_private(kit.key_file)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_whole(kit.folder / "node.pub", public + b"\n")
    statement.unlink(missing_ok=True)
    return fingerprint(public_der(key))


def _check_accepted(kit: Kit, key_file: Path) -> None:
    """Ask the forget service, with a key, whether the server knows it."""
    from fedquit.client.requests.channel import ForgetService

    with ForgetService(kit, key_file=key_file) as service:
        try:
            service.requests(limit=1)
        except RefusedError as error:
            if error.code != UNKNOWN:
                raise
            raise StateError(
                f"the server does not know the new key yet, so {kit.folder} still uses the old one: hand "
                f"{kit.folder / STATEMENT} to the operator, and run this again after that"
            ) from None


def read_new_key(content: bytes, key_of: Any) -> NewKey:
    """Return what a statement says.

    Args:
        content: of its file.
        key_of: gives the public key (DER) of a member by its fingerprint, or None.

    Raises:
        InputError: it is none, or is not signed by both keys.
    """
    try:
        if len(content) > LARGEST:
            raise ValueError("too long")
        document = dict(json.loads(content))
        by_old, by_new = (bytes.fromhex(document.pop(name)) for name in ("by_old", "by_new"))
        signed, new = canonical(document), bytes.fromhex(document["key"])
        found = NewKey(str(document["federation"]), str(document["old"]), new)
        if document["form"] != FORM:
            raise ValueError("another form")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError("this is not what `fedquit rotate KIT` writes") from None
    if not is_usable(new):
        raise InputError("the new key is not P-384")
    old = key_of(found.old)
    if old is None:
        raise InputError(f"nobody here has the old key {found.old[:16]}…; was it replaced already?")
    if not is_signed(old, signed, by_old) or not is_signed(new, signed, by_new):
        raise InputError("it is not signed by the old key and the new one")
    return found


def _write_key(path: Path, key: PrivateKey) -> None:
    """Write a private key for its owner alone, from its first moment."""
    content = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    before = os.umask(0o077)
    try:
        write_whole(path, content)
    finally:
        os.umask(before)
