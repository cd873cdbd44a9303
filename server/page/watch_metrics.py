"""Metrics for Prometheus that are not in the ledger: who is connected, how old a request is, the disk, health."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from fedquit.server.federation import Federation
from fedquit.server.ledger import UNDER_WAY, Ledger
from fedquit.server.page.health import troubles
from fedquit.server.serve.last_look import look_of, read_seen

Figures = Mapping[str, float]
"""Values by label; "" for a figure without one."""


def watch_metrics(ledger: Ledger, federation: Federation, folder: Path, now: float) -> str:
    """Return the figures in the text exposition format; what is not known has none."""
    lines = list[str]()
    for name, (label, said, figures) in _families(ledger, federation, folder, now).items():
        lines += [f"# HELP fedquit_{name} {said}", f"# TYPE fedquit_{name} gauge"]
        for which, value in figures.items():
            own = f',{label}="{_escaped(which)}"' if label else ""
            lines.append(f'fedquit_{name}{{federation="{federation.name}"{own}}} {value}')
    return "\n".join(lines) + "\n"


def _families(ledger: Ledger, federation: Federation, folder: Path, now: float) -> dict[str, tuple[str, str, Figures]]:
    """Return of each family its label, its help, and its figures."""
    seen, looked = read_seen(folder), look_of(folder)
    names = {member.number: member.name for member in ledger.members() if member.role == "device"}
    asked = [request.asked_at for status in ("asked", *UNDER_WAY) for request in ledger.requests(status=status)]
    disk = shutil.disk_usage(folder)
    return {
        "devices_connected": (
            "",
            "Devices that were connected when the coordinator last looked.",
            {"": len(seen.here)} if looked is not None else {},
        ),
        "device_last_seen_timestamp_seconds": (
            "device",
            "When the coordinator last saw a device connected, Unix seconds.",
            {names[number]: at for number, at in seen.at.items() if number in names},
        ),
        "last_look_timestamp_seconds": (
            "",
            "When a coordinator last looked which devices are connected, Unix seconds.",
            {"": looked} if looked is not None else {},
        ),
        "oldest_open_request_age_seconds": (
            "",
            "Seconds since the oldest open request was asked; 0: none is open.",
            {"": max(0.0, now - min(asked, default=now))},
        ),
        "disk_free_bytes": ("", "Bytes that are free on the disk of the server's folder.", {"": disk.free}),
        "disk_size_bytes": ("", "Bytes of the disk of the server's folder.", {"": disk.total}),
        "troubles": (
            "",
            "What keeps the server from working, a number; /healthz says what.",
            {"": len(troubles(ledger, federation, folder, now))},
        ),
    }


def _escaped(text: str) -> str:
    r"""Return a text as the value of a label.

    >>> _escaped('a "b"')
    'a \\"b\\"'
    """
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
