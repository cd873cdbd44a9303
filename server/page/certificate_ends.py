"""When the server's certificate and authority expire, with a warning a month ahead: without them no device connects."""

from collections.abc import Mapping
from pathlib import Path

from cryptography import x509

from fedquit.server.page.sentences import moment

FILES = {"server": "server.pem", "authority": "ca.crt"}
SOON = 30 * 86_400.0
WAY_OUT = {
    "server": "renew it with fedquit provision CONFIG --renew (the authority's key must be in its place)",
    "authority": "make a new one with fedquit provision CONFIG --new-authority, and hand its ca.crt to every member",
}


def certificate_ends(folder: Path) -> dict[str, float]:
    """Return when each certificate in a server's folder ends (Unix seconds); one that cannot be read is left out."""
    found = {}
    for name, file in FILES.items():
        try:
            certificate = x509.load_pem_x509_certificate((folder / file).read_bytes())
        except (OSError, ValueError):
            continue
        found[name] = certificate.not_valid_after_utc.timestamp()
    return found


def ending_soon(ends: Mapping[str, float], now: float) -> list[str]:
    """Say which certificates end within a month, and what to do; a server's never outlives its authority.

    >>> ending_soon({"server": 40 * 86_400.0, "authority": 2e9}, 0.0), len(ending_soon({"server": 86_400.0}, 0.0))
    ([], 1)
    """
    said = []
    for name, end in ends.items():
        if end < now + SOON:
            ended = "ended" if end <= now else "ends"
            said.append(f"the certificate of the {name} {ended} on {moment(end)}: {WAY_OUT[name]}")
    return said
