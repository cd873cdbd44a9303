"""Was a request about these samples? Only who has the salt that the device drew for them can tell."""

import re
from pathlib import Path

from fedquit.client.kit import Kit
from fedquit.client.receipts.statement import Receipt
from fedquit.errors import InputError


def check_samples(receipt: Receipt, file: Path, kit: Kit | None, salt: str) -> None:
    """Check that the request of a receipt was about exactly the samples that a file lists.

    Args:
        receipt: that verified.
        file: samples, one a line: names in the data of `kit`, or digests.
        kit: whose record has the salt, unless `salt` says it.
        salt: 64 hex digits.

    Raises:
        BadReceiptError: it was about others.
        InputError: no salt is known, or the samples cannot be read.
    """
    from fedquit.client.device.local_data.sample_names import digests_of, names_in

    names = names_in(file)
    if kit is not None:
        digests = digests_of(kit, names)
    elif wrong := [name for name in names if not re.fullmatch("[0-9a-f]{64}", name)]:
        raise InputError(
            f"'{wrong[0]}' in {file} is no digest of 64 hex digits; samples have names in a kit: --kit KIT"
        )
    else:
        digests = tuple(map(bytes.fromhex, names))
    receipt.check_samples(digests, _salt(receipt, kit, digests, salt))


def _salt(receipt: Receipt, kit: Kit | None, digests: tuple[bytes, ...], given: str) -> bytes:
    """Return the salt that was given, or that the kit drew for these samples; b"": none is needed."""
    from fedquit.client.device.local_data.samples_commitment import set_digest
    from fedquit.client.device.record import opened

    if not receipt.salted:
        return b""
    if given:
        if not re.fullmatch("[0-9a-f]{64}", given):
            raise InputError("--salt must have 64 hex digits; `fedquit record KIT --json` prints it")
        return bytes.fromhex(given)
    if kit is None:
        raise InputError("the digest of the samples is salted: give the salt (--salt HEX), or --kit of the device")
    with opened(kit.path(kit.record)) as record:
        found = record.salts().get(set_digest(digests))
    if found is None:
        raise InputError(
            f"the kit {kit.folder} never asked about exactly these {len(digests)} samples: it has no salt for them"
        )
    return found
