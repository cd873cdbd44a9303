"""Check a receipt on this machine, without asking anyone: what `fedquit verify` and Python call."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fedquit.client.kit import Kit
from fedquit.client.receipts.revocations import read_revocations
from fedquit.client.receipts.statement import Receipt, read_receipt
from fedquit.errors import BadReceiptError, InputError


def verify(
    receipt: str | Path,
    *,
    key: str | Path | None = None,
    kit: str | Path | None = None,
    model: str | Path | None = None,
    revoked: str | Path | None = None,
    samples: str | Path | None = None,
    salt: str = "",
) -> Receipt:
    """Check a receipt offline: who signed it, that no byte was changed, that it answers the ask that it carries.

    `fedquit verify` is this function. One of `key` and `kit` is needed: a receipt does not say whom to trust.

    Args:
        receipt: its file.
        key: the federation's receipts.pub.
        kit: a kit, which has that key in it.
        model: a model file: is it the one of the receipt?
        revoked: the federation's signed list of revoked keys.
        samples: a file that lists samples, one a line: their names in the kit's data, or their digests. Was the
            request about these, and no others?
        salt: that the device drew for them, 64 hex digits; the kit's record has it too.

    Returns:
        The receipt; `print(receipt)` says what it states.

    Raises:
        BadReceiptError: it does not verify; the text says why.
        InputError: a file cannot be read, or neither key nor kit is given, or both.

    Example:
        ```python
        from fedquit import verify

        receipt = verify("receipt.json", key="receipts.pub")
        print(receipt)
        receipt.predicate["verdict"]["text"]
        ```
    """
    if (key is None) == (kit is None):
        raise InputError("give --key FILE (the federation's receipts.pub) or --kit KIT")
    member = None if kit is None else Kit.read(Path(kit))
    public = receipts_key(member.receipts_key_file if member else Path(key or ""))
    read = read_receipt(content_of(Path(receipt)), public)
    if member is not None and read.predicate["federation"] != member.federation:
        raise BadReceiptError(f"the receipt is of the federation '{read.predicate['federation']}', not the kit's")
    if revoked is not None:
        read_revocations(content_of(Path(revoked)), public).check(read.predicate)
    if model is not None:
        read.check_model(content_of(Path(model)))
    if samples is not None:
        from fedquit.client.receipts.opened_commitment import check_samples

        check_samples(read, Path(samples), member, salt)
    elif salt:
        raise InputError("--salt opens the digest of samples: list them with --samples FILE")
    return read


def content_of(path: Path) -> bytes:
    """Return what is in a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def receipts_key(path: Path) -> Ed25519PublicKey:
    """Return the public key that a federation's receipts are signed with.

    Raises:
        InputError: it cannot be read, or is another kind of key.
    """
    try:
        key = load_pem_public_key(content_of(path))
    except ValueError as error:
        raise InputError(f"{path} is no public key in PEM: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} is not an Ed25519 key; the federation's is called receipts.pub")
    return key
