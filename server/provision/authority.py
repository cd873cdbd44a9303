"""The federation's authority and the certificate that its server shows: no authority is ever replaced silently.

Devices trust the authority by the `ca.crt` in their kits. A new one locks every device out until it has the new file,
so one is made only where none was ever, or where it is asked for by name. Its key is needed when a server certificate
is made (every two years, or for another host) and for nothing else: it may lie in a safe meanwhile.
"""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedquit.errors import InputError
from fedquit.files import write_whole
from fedquit.server.federation import Federation
from fedquit.server.provision.certificates import Signed, hosts_of, make_authority, make_server_certificate

PRIVATE, OPEN = 0o600, 0o644
AHEAD = datetime.timedelta(days=30)
"""A certificate that ends within this time is renewed."""


def renew(
    out: Path, federation: Federation, now: datetime.datetime, *, new_authority: bool = False, at_once: bool = False
) -> None:
    """Make the server's certificate in OUT/server if it is missing, for another host, or ends soon; else touch nothing.

    Args:
        out: folder of the federation.
        federation: says what host the certificate is for.
        now: the time from which it holds.
        new_authority: make a new authority, and so a new certificate; the files of the old one are kept next to it.
        at_once: make a new certificate also where the old one holds for long; the authority stays the same.

    Raises:
        InputError: it is to be made, and the authority's key is away, is another's, or the authority itself ends soon.
    """
    server, hosts = out / "server", [federation.server.host]
    if at_once and not _was_ever(out):
        raise InputError(f"{out} has no certificate that could be renewed; leave out --renew")
    if not new_authority and not at_once and _holds(server, hosts, now):
        return
    authority = _made(out, federation, now) if new_authority or not _was_ever(out) else _there(out, now)
    signed = make_server_certificate(authority, hosts, now)
    write(server / "ca.crt", authority.certificate_pem(), OPEN)  # stopped after each of these, the next try goes on
    write(server / "server.key", signed.key_pem(), PRIVATE)
    write(server / "server.pem", signed.certificate_pem(), OPEN)


def write(path: Path, content: bytes, mode: int) -> None:
    """Write a file whole; one for its owner alone is so from its first moment."""
    write_whole(path, content, mode)
    path.chmod(mode)


def _holds(server: Path, hosts: list[str], now: datetime.datetime) -> bool:
    """Say whether a server's certificate is whole, for these hosts, signed by its ca.crt, and holds a month more."""
    if not all((server / name).exists() for name in ("server.pem", "server.key", "ca.crt")):
        return False
    certificate, authority = _read(server / "server.pem"), _read(server / "ca.crt")
    try:
        certificate.verify_directly_issued_by(authority)
        key = serialization.load_pem_private_key((server / "server.key").read_bytes(), password=None)
    except (ValueError, TypeError, InvalidSignature):
        return False
    if key.public_key() != certificate.public_key():
        return False
    ends = min(certificate.not_valid_after_utc, authority.not_valid_after_utc)
    return set(hosts) <= hosts_of(certificate) and ends > now + AHEAD


def _was_ever(out: Path) -> bool:
    """Say whether this federation ever had an authority: whoever has its ca.crt trusts no other."""
    kits = out / "kits"
    known = [out / "authority" / "ca.crt", out / "server" / "ca.crt", out / "server" / "server.pem"]
    return any(path.exists() for path in known) or (kits.is_dir() and any(kits.iterdir()))


def _made(out: Path, federation: Federation, now: datetime.datetime) -> Signed:
    """Make an authority; one that was there is kept under another name."""
    folder = out / "authority"
    made, number = make_authority(federation.name, now), 1
    while any((folder / f"ca-{number}{end}").exists() for end in (".crt", ".key")):
        number += 1
    for end in (".key", ".crt"):
        if (folder / f"ca{end}").exists():
            (folder / f"ca{end}").rename(folder / f"ca-{number}{end}")
    write(folder / "ca.key", made.key_pem(), PRIVATE)
    write(folder / "ca.crt", made.certificate_pem(), OPEN)
    return made


def _there(out: Path, now: datetime.datetime) -> Signed:
    """Return the authority that this federation has.

    Raises:
        InputError: its key is away, or is another's, or it ends soon.
    """
    key_file, trusted = out / "authority" / "ca.key", out / "server" / "ca.crt"
    file = trusted if trusted.exists() else out / "authority" / "ca.crt"
    way_out = "or give --new-authority: every member must then be handed the new ca.crt"
    if not key_file.exists() or not file.exists():
        missing = key_file if not key_file.exists() else file
        raise InputError(
            f"{missing} is missing, and a server certificate is to be signed by this federation's authority: put it "
            f"back for a moment, {way_out}"
        )
    certificate = _read(file)
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise InputError(f"{key_file} cannot be read: {error}; put the right one there, {way_out}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise InputError(
            f"{key_file} is not the key of {file}, which devices trust: put the right one there, {way_out}"
        )
    if certificate.not_valid_after_utc <= now + AHEAD:
        ends = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
        raise InputError(f"the authority {file} ends on {ends}, and no certificate outlives it: give --new-authority")
    return Signed(certificate, key)


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a certificate: {error}; remove it, and a new one is made") from None
