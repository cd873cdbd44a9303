"""What keeps a server from working now: a full disk, a step that failed, a coordinator that does not run."""

import shutil
from pathlib import Path

from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger
from fedquit.server.serve.last_look import look_of

WORKED = ("round", "forgot", "recovered", "done", "unrecovered")
FAILED = ("round-failed", "round-not-adopted", "fallback", "failed")
"""Events that say how a step ended; the last one of both counts."""
LOOKED_AT = 1000
"""The number of events at the end of the log that are searched for the last step."""
MODELS = 3
"""The number of models that a step may have to write at once: its own, replies, what is kept."""
LEAST = 16_000_000
"""Bytes that should be free however small the models are: for the ledger and Flower's database."""
GRACE = 300.0
"""Seconds beyond the longest exchange with devices after which a coordinator that has not looked is missed."""


def troubles(ledger: Ledger, federation: Federation, folder: Path, now: float) -> list[str]:
    """Return what keeps the server in `folder` from working, a line each with the way out; nothing: all is well."""
    found = [disk_trouble(folder), step_trouble(ledger), coordinator_trouble(federation, folder, now)]
    return [trouble for trouble in found if trouble]


def unreadable(folder: Path, error: Exception) -> list[str]:
    """Return what keeps a server from working whose ledger cannot be read: the disk, which may be why, and the error.

    A database cannot be opened where there is no room for what belongs to it.
    """
    return [trouble for trouble in (disk_trouble(folder), f"the ledger cannot be read: {error}") if trouble]


def disk_trouble(folder: Path) -> str:
    """Say that the disk of a server is full, or nearly; "": there is room for some steps."""
    try:
        free, needed = shutil.disk_usage(folder).free, room_needed(folder)
    except OSError:
        return ""  # whoever reads the ledger says what is wrong
    if free >= needed:
        return ""
    return (
        f"the disk of {folder} is full: {free} bytes are free, and a step may need {needed}; "
        "make room, nothing else is to be done"
    )


def room_needed(folder: Path) -> int:
    """Return the bytes that the next step of the server in `folder` may need."""
    largest = max((path.stat().st_size for path in (folder / "models").glob("*.safetensors")), default=0)
    return max(LEAST, MODELS * largest)


def step_trouble(ledger: Ledger) -> str:
    """Say why the last step failed; "": it did not."""
    for event in reversed(ledger.events(after=max(0, ledger.head()[0] - LOOKED_AT))):
        if event.kind in WORKED:
            return ""
        if event.kind in FAILED:
            reason = event.facts.get("reason") or event.facts.get("why") or event.kind
            return f"the last step failed ({event.kind}): {reason}"
    return ""


def coordinator_trouble(federation: Federation, folder: Path, now: float) -> str:
    """Say that no coordinator has looked at the devices for longer than any step takes; "": it has, or never yet."""
    last, longest = look_of(folder), max(federation.schedule.round_timeout, federation.forgetting.device_timeout)
    if last is None or now <= last + longest + GRACE:
        return ""
    return f"no coordinator has looked at the devices for {now - last:.0f} s; see superexec.log in {folder / 'logs'}"
