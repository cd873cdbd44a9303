"""Retire again samples that an older copy of the record lacks: only their owner can say which they were."""

import re
from pathlib import Path

import filelock

from fedquit.client.device.local_data.sample_names import digests_of, names_in, note_contents
from fedquit.client.device.record.record import opened
from fedquit.client.device.record.record_rows import Mark
from fedquit.client.kit import Kit
from fedquit.errors import FedquitError, InputError

WAIT = 60.0
"""Seconds to wait for a message that the device is carrying out."""


def retire_again(folder: Path, request: str, file: Path) -> int:
    """Retire the samples of a request in a kit's record, and return their number; a second call changes nothing.

    Args:
        folder: the kit.
        request: id of the request that retired them before.
        file: lists the samples, one per line.

    Raises:
        InputError: it is no kit, no request id, there is no such sample, or the record has other samples for it.
        FedquitError: the device does not finish its message in time.
    """
    if not re.fullmatch("[0-9a-f]{64}", request):
        raise InputError(
            f"'{request}' is not a whole request id, 64 hex digits; 'fedquit requests {folder} --json' shows it"
        )
    kit = Kit.read(folder)
    path, digests = kit.path(kit.record), digests_of(kit, names_in(file))
    try:
        with filelock.FileLock(f"{path}.lock", timeout=WAIT), opened(path) as record:
            known = record.marked(request)
            if known and (known.granularity != "sample" or {*known.digests} != {*digests}):
                raise InputError(f"the record of {folder} has request {request[:12]} already, about other samples")
            note_contents(kit, record, digests)
            record.retire(Mark(request, "sample", digests), [])
    except filelock.Timeout:
        raise FedquitError(f"the device of {folder} has been at work for {WAIT:.0f} s; try again later") from None
    return len(digests)
