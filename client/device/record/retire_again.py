"""Retire again samples that an older copy of the record lacks: only their owner can say which they were."""

import re
from pathlib import Path

from fedquit.client.device.local_data.sample_names import digests_of, names_in, note_contents
from fedquit.client.device.record.owners_turn import in_turn
from fedquit.client.device.record.record_rows import Mark
from fedquit.client.kit import Kit
from fedquit.errors import InputError


def retire_again(folder: Path, request: str, file: Path | None) -> int:
    """Retire samples of a request in a kit's record, and return how many of it are retired then.

    Done twice it is done once; done with other samples, these are retired too, and none is put back.

    Args:
        folder: the kit.
        request: id of the request that retired them before.
        file: lists the samples, one per line; None: none of the request is among the kit's data any more.

    Raises:
        InputError: it is no kit, no request id, there is no such sample, or the request is not about samples.
        FedquitError: the device is at work for too long.
    """
    if not re.fullmatch("[0-9a-f]{64}", request):
        raise InputError(
            f"'{request}' is not a whole request id, 64 hex digits; 'fedquit requests {folder} --json' shows it"
        )
    kit = Kit.read(folder)
    named = _named(kit, request, file)
    with in_turn(kit) as record:
        known = record.marked(request)
        if known and known.granularity != "sample":
            raise InputError(f"request {request[:12]} is about a {known.granularity} in the record of {folder}")
        digests = tuple(dict.fromkeys([*(known.digests if known else ()), *named]))
        note_contents(kit, record, digests)
        record.retire(Mark(request, "sample", digests), [])
        return sum(by == request for by in record.retired().values())


def _named(kit: Kit, request: str, file: Path | None) -> tuple[bytes, ...]:
    """Return the digests of the samples that a file lists.

    Raises:
        InputError: one is not there; the line says what to do about those that were deleted.
    """
    if file is None:
        return ()
    names = names_in(file)
    try:
        return digests_of(kit, names)
    except InputError as error:
        raise InputError(
            f"{error}; leave out what was deleted, or if all was: fedquit record {kit.folder} --retire {request} --gone"
        ) from error
