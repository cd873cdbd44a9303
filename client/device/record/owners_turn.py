"""The turn of an owner's command at a device's record: between two messages, not while the device carries one out."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import filelock

from fedquit.client.device.record.record import Record, opened
from fedquit.client.kit import Kit
from fedquit.errors import FedquitError
from fedquit.files import explained

WAIT = 60.0
"""Seconds to wait for a message that the device is carrying out."""


@contextmanager
def in_turn(kit: Kit) -> Iterator[Record]:
    """Open the record of a kit when the device is not at work, and keep it from work meanwhile.

    Raises:
        FedquitError: the device is at work for too long.
    """
    path = kit.path(kit.record)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(filelock.FileLock(f"{path}.lock", timeout=WAIT))
        except filelock.Timeout:
            raise FedquitError(
                f"the device of {kit.folder} has been at work for {WAIT:.0f} s; try again later"
            ) from None
        yield held.enter_context(opened(path))
