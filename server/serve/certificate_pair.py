"""The server's certificate and its key on disk: have they been replaced, and do they belong together?

`fedquit provision --renew` writes one after the other, so a reader may find halves of two pairs. Then the pair is not
there yet, and the one that was read before stays in use.
"""

from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

Stamp = tuple[tuple[int, int, int], ...]


class CertificatePair:
    """The pair in a server's folder, as it was when this was made or last looked at.

    Args:
        certificate: PEM file.
        key: PEM file of its private key.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._seen = self._stamp()

    def replaced(self) -> tuple[bytes, bytes] | None:
        """Return certificate and key if they were replaced by another whole pair since the last call, else None."""
        stamp = self._stamp()
        if stamp is None or stamp == self._seen:
            return None
        try:
            certificate, key = (path.read_bytes() for path in self._files)
            whole = _belong_together(certificate, key)
        except (OSError, ValueError, TypeError):
            return None
        if not whole or self._stamp() != stamp:
            return None
        self._seen = stamp
        return certificate, key

    def _stamp(self) -> Stamp | None:
        """Return what changes when a file is replaced; None: one is not there."""
        try:
            found = [path.stat() for path in self._files]
        except OSError:
            return None
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in found)


def on_renewal(folder: Path, then: Callable[[], None]) -> Callable[[], None]:
    """Return what to call now and then: it calls `then` once for each time that the pair in `folder` was replaced."""
    pair = CertificatePair(folder / "server.pem", folder / "server.key")

    def look() -> None:
        if pair.replaced() is not None:
            then()

    return look


def _belong_together(certificate: bytes, key: bytes) -> bool:
    """Say whether a certificate is for the public half of a key."""
    private = load_pem_private_key(key, password=None)
    return x509.load_pem_x509_certificate(certificate).public_key() == private.public_key()
