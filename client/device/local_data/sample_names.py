"""Samples by the names that their owner knows them by, in an ask."""

import re
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from fedquit.client.device.record import Mark, Record, opened
from fedquit.client.kit import Kit
from fedquit.errors import InputError


def names_in(file: Path) -> tuple[str, ...]:
    """Return the samples that a file lists, one a line; empty lines and those that begin with # are skipped.

    Raises:
        InputError: it cannot be read, or lists nothing.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the samples to forget from {file}: {error}") from error
    names = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not names:
        raise InputError(f"{file} lists no sample")
    return names


def digests_of(kit: Kit, names: Collection[str]) -> tuple[bytes, ...]:
    """Return the digests of samples of the kit's data.

    Args:
        kit: of the device.
        names: see `find`; or digests themselves, as 64 hex digits, for samples that are not there any more.

    Raises:
        InputError: there is no such sample, or several.
    """
    given = [name for name in names if re.fullmatch("[0-9a-f]{64}", name)]
    others = [name for name in names if name not in given]
    if others and not kit.data:
        raise InputError(f"the kit {kit.folder} names no data: an operator's kit cannot name samples")
    found = _find(kit.path(kit.data), others) if others else {}
    return tuple(dict.fromkeys([*map(bytes.fromhex, given), *found.values()]))


def salt_of(kit: Kit, digests: Collection[bytes]) -> bytes:
    """Return the salt of an ask about samples, which the device's record keeps; b"": it is about none.

    Raises:
        InputError: it is an operator's kit.
    """
    if not digests:
        return b""
    if kit.role != "device":
        raise InputError("only the device can name its samples: which they are does not leave it; ask with its kit")
    with opened(kit.path(kit.record)) as record:
        return record.salt(digests)


def marking(kit: Kit, granularity: str, digests: Collection[bytes] = ()) -> Callable[[str], None]:
    """Return what marks, in the device's record, what a request is about, before it is sent.

    >>> marking(Kit(Path("k"), "clinics", "h:1", "h:2", "ada", 3, role="operator"), "client")("5ba1")
    """

    def mark(request: str) -> None:
        if kit.role == "device":
            with opened(kit.path(kit.record)) as record:
                note_contents(kit, record, digests)
                record.mark(Mark(request, granularity, digests=tuple(digests)))

    return mark


def note_contents(kit: Kit, record: Record, digests: Collection[bytes]) -> None:
    """Note in the record what samples are, so that each is known again should its form change before it is forgotten.

    What is not there or cannot be read any more is known by its digest alone.
    """
    from fedquit.client.device.local_data.gather import contents_of

    if digests and kit.data:
        with suppress(InputError):
            record.note(contents_of(kit.path(kit.data), digests))


def _find(path: Path, names: Collection[str]) -> dict[str, bytes]:
    from fedquit.client.device.local_data.gather import find  # not before it is needed: it loads PyTorch

    return find(path, names)
