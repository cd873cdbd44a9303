"""The file of a backup: a plain tar whose first entry says what follows, with sizes and digests, signed by the server.

    backup.json     form, federation, version, time, head of the ledger, each file's size and SHA-256, and a signature
    server/...      the files of the server's folder
    authority/...   the authority's certificate and key

It is not compressed, as models hardly shrink: so no entry can be larger than the file that it lies in.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedquit.errors import FedquitError, InputError
from fedquit.server.ledger.audit_log.hash_chain import canonical

FORM = "fedquit backup v1"
MANIFEST = "backup.json"
SIGNED = b"fedquit backup v1\n"
LARGEST_MANIFEST = 64 * 2**20  # bytes
CHUNK = 2**20
NAME = re.compile(r"(?:server|authority)(?:/[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,199}){1,8}")
"""What an entry may be called: no part of it begins with a dot, so none leads out of the folder."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The signed description of a backup.

    Attributes:
        federation: its name.
        fedquit: the version that made it; `made_at`: Unix seconds.
        ledger: "sqlite" or "postgresql"; "": the backup has no ledger.
        event: number of the last event of the ledger when the backup began; `head`: its digest.
        files: size in bytes and SHA-256 of each entry, by its name.
    """

    federation: str
    fedquit: str
    made_at: float
    ledger: str
    event: int
    head: str
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def signed(self, key: Ed25519PrivateKey) -> bytes:
        """Return this as signed JSON."""
        document = self._document()
        return canonical({**document, "signature": key.sign(SIGNED + canonical(document)).hex()})

    @classmethod
    def read(cls, content: bytes) -> tuple[Self, bytes]:
        """Return the manifest in a text, and its signature.

        Raises:
            InputError: it is no manifest, or names a file that no backup holds.
        """
        try:
            document = json.loads(content)
            signature = bytes.fromhex(document.pop("signature"))
            if document.pop("form") != FORM:
                raise ValueError("another form")
            files = {str(name): (_size(size), str(digest)) for name, (size, digest) in document.pop("files").items()}
            manifest = cls(**document, files=files)
            canonical(manifest._document())
            if {type(manifest.federation), type(manifest.fedquit), type(manifest.ledger), type(manifest.head)} != {str}:
                raise ValueError("a value of another kind")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise InputError("it does not begin with what a backup of fedquit begins with") from None
        for name in manifest.files:
            if not NAME.fullmatch(name):
                raise InputError(f"it names {name[:80]!r}, which no backup holds")
        return manifest, signature

    def check(self, signature: bytes, key: Ed25519PublicKey) -> None:
        """Check that the server with this key made the backup.

        Raises:
            InputError: it was altered, or another server made it.
        """
        try:
            key.verify(signature, SIGNED + canonical(self._document()))
        except InvalidSignature:
            raise InputError("its list of files was altered, or another server made it") from None

    def _document(self) -> dict[str, Any]:
        listed = {name: [size, digest] for name, (size, digest) in self.files.items()}
        return {"form": FORM, **asdict(self), "files": listed}


def write_archive(file: IO[bytes], manifest: bytes, files: Mapping[str, Path], expected: Manifest) -> None:
    """Write a backup.

    Args:
        file: where to.
        manifest: the signed text of `expected`.
        files: what lies under each name that it lists.
        expected: what the files are.

    Raises:
        FedquitError: a file changed meanwhile.
    """
    with tarfile.open(fileobj=file, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, MANIFEST, len(manifest), io.BytesIO(manifest))
        for name, path in files.items():
            with path.open("rb") as content:
                _add(archive, name, expected.files[name][0], content)
            if digest_of_file(path) != expected.files[name]:
                raise FedquitError(f"{path} changed while it was copied; do the backup again")


@contextmanager
def opened_archive(path: Path) -> Iterator[tuple[Manifest, bytes, Callable[[Callable[[str], IO[bytes]]], None]]]:
    """Open a backup; yields its manifest, the signature, and what unpacks it into the files that a function opens.

    Raises:
        InputError: it is no backup, or damaged, or holds anything but the files that its manifest lists.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            manifest, signature = Manifest.read(_manifest_of(archive))
            if sum(size for size, _ in manifest.files.values()) > path.stat().st_size:
                raise InputError("it is not whole: the files that it lists are larger than itself")
            yield manifest, signature, lambda opening: _unpack(archive, manifest, opening)
    except InputError as error:
        raise InputError(f"{path} cannot be restored: {error}") from None
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise InputError(f"{path} cannot be restored: it is no backup of fedquit, or damaged ({error})") from None
    except OSError as error:
        raise FedquitError(f"{path} cannot be restored: {error.strerror or error}") from None


def digest_of_file(path: Path) -> tuple[int, str]:
    """Return size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def _add(archive: tarfile.TarFile, name: str, size: int, content: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    archive.addfile(entry, content)


def _manifest_of(archive: tarfile.TarFile) -> bytes:
    entry = archive.next()
    if entry is None or entry.name != MANIFEST or not _plain(entry) or entry.size > LARGEST_MANIFEST:
        raise InputError("it does not begin with what a backup of fedquit begins with")
    content = archive.extractfile(entry)
    return content.read() if content else b""


def _unpack(archive: tarfile.TarFile, manifest: Manifest, opening: Callable[[str], IO[bytes]]) -> None:
    """Write each entry into the file that `opening` opens for its name; refuse whatever is not as it is listed."""
    left = dict(manifest.files)
    while (entry := archive.next()) is not None:
        if entry.name not in left:
            raise InputError(f"it holds {entry.name[:80]!r}, which it does not list")
        size, digest = left.pop(entry.name)
        if not _plain(entry) or entry.size != size:
            raise InputError(f"{entry.name} in it is not the file that it lists")
        content, found = archive.extractfile(entry), hashlib.sha256()
        with opening(entry.name) as file:
            while content and (chunk := content.read(CHUNK)):
                found.update(chunk)
                file.write(chunk)
        if found.hexdigest() != digest:
            raise InputError(f"{entry.name} in it was altered: it has another SHA-256")
    if left:
        raise InputError(f"it is not whole: {min(left)} is missing")


def _plain(entry: tarfile.TarInfo) -> bool:
    """Say whether an entry is a file and nothing else: no link, no device, no file with holes."""
    return entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not entry.issparse()


def _size(given: object) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or given < 0:
        raise ValueError("no size")
    return given
