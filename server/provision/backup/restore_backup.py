"""Restore a backup into a new folder: all of it, checked, or nothing.

It is unpacked next to its destination, compared with its manifest, checked as a server's folder, and only then moved
there. With `key` it is certain that this federation's server made it; a backup of PostgreSQL's ledger is run as SQL.

Killed or stopped with Ctrl-C at any moment it leaves either no server, and then the same command does all that is left,
or the whole one: the server's folder is the last to be moved, and once it is in its place, nothing is undone.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import tomli_w

from fedquit.client.receipts.verify_receipt import receipts_key
from fedquit.errors import FedquitError, InputError
from fedquit.files import explained, sync_folder
from fedquit.server.federation import FILE, Federation
from fedquit.server.ledger import Ledger
from fedquit.server.ledger.audit_log.seal import read_seal
from fedquit.server.provision.backup.archive import Manifest, digest_of_file, opened_archive
from fedquit.server.provision.backup.ledger_copy import POSTGRESQL, is_ledger_of, restored_postgresql
from fedquit.server.provision.backup.make_backup import NEEDED, is_private
from fedquit.server.provision.backup.restore_folder import IN_DATABASE, is_in_place, restore_folder
from fedquit.server.provision.deployment_files import write_deployment_files
from fedquit.settings import load_settings_file

PUBLIC = 0o644


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored server: its folder, the backup's manifest, and the head of its ledger."""

    folder: Path
    manifest: Manifest
    event: int
    head: str


def restore_backup(path: Path, to: Path, *, key: Path | None = None, ledger: str = "") -> Restored:
    """Restore the backup at `path` into the folder `to`, which must not be there or be empty.

    Args:
        path: of the backup.
        to: the server's folder; the authority, if it is in the backup, goes beside it.
        key: receipts.pub of the federation that must have made it; None: any federation.
        ledger: URL of the database that the ledger is restored into, if not the one in its server.toml.

    Raises:
        InputError: it is no backup, damaged, another federation's, or `to` is not empty.
        FedquitError: it cannot be written, or its ledger fails its check.
    """
    to = to.absolute()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} is not empty: give a folder that is not there yet")
    with opened_archive(path) as (manifest, signature, unpack):
        _check_room(manifest, to)
        if key is not None:
            manifest.check(signature, receipts_key(key))
        with restore_folder(to) as staging:
            unpack(lambda name: _opened(staging, name))
            server = staging / "server"
            missing = [name for name in NEEDED if not (server / name).is_file()]
            if missing:
                raise InputError(f"it lacks {', '.join(missing)}")
            manifest.check(signature, receipts_key(server / "receipts.pub"))
            with _ledger_in_place(staging, manifest, ledger, to) as (event, head):
                write_deployment_files(server, Federation.read(server), to)
                _move(staging, to)
    return Restored(to, manifest, event, head)


def _check_room(manifest: Manifest, to: Path) -> None:
    size = sum(size for size, _ in manifest.files.values())
    with explained(to.parent):
        to.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(to.parent).free
    if size > free:
        raise FedquitError(f"{to.parent} has {free:,} bytes free, and the backup holds {size:,}; make room")
    authority = to.parent / "authority"
    held = {name: what for name, what in manifest.files.items() if name.startswith("authority/")}
    if held and authority.exists() and not all(_is_file(to.parent / name, what) for name, what in held.items()):
        raise InputError(f"{authority} is there already, and the backup has another one; restore into another folder")


def _is_file(path: Path, what: tuple[int, str]) -> bool:
    """Say whether a file is there with that size and SHA-256."""
    return path.is_file() and digest_of_file(path) == what


def _opened(staging: Path, name: str) -> IO[bytes]:
    """Open a new file of the restored folder, a secret for its owner alone."""
    path = staging / name
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        secret = is_private(name) or "ledger" in path.name
        return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if secret else PUBLIC), "wb")


@contextmanager
def _ledger_in_place(staging: Path, manifest: Manifest, url: str, to: Path) -> Iterator[tuple[int, str]]:
    """Bring the ledger into its database, check it, and yield its head.

    What fails afterwards takes it out again, unless the server is in its place.
    """
    server = staging / "server"
    federation = Federation.read(server)
    if federation.name != manifest.federation:
        raise InputError(f"its server.toml is of '{federation.name}', and it says '{manifest.federation}'")
    if not manifest.ledger:
        yield manifest.event, manifest.head
        return
    if url:
        _set_ledger(server, url)
        federation = Federation.read(server)
    if manifest.ledger == "postgresql":
        noted, database = staging / IN_DATABASE, federation.ledger_url(server)
        with restored_postgresql(server / POSTGRESQL, database, noted, lambda: is_in_place(to)):
            yield _head_of(server, federation, manifest)
        return
    if is_ledger_of(federation.ledger_url(server)) != "sqlite" or federation.server.ledger:
        _set_ledger(server, "")  # its file is in the folder now, wherever it was
        federation = Federation.read(server)
    yield _head_of(server, federation, manifest)


def _head_of(server: Path, federation: Federation, manifest: Manifest) -> tuple[int, str]:
    """Return the head of the restored ledger.

    Raises:
        FedquitError: it fails its check, or is not the one of the backup.
    """
    ledger = Ledger.open(federation.ledger_url(server), seal=read_seal(server / "receipts.key"))
    try:
        wrong, head = ledger.check_chain(noted=(manifest.event, manifest.head)), ledger.head()
    finally:
        ledger.close()
    if wrong:
        raise FedquitError(f"its ledger does not hold: {wrong[0]} ({len(wrong)} in all); it is a plain tar, to look at")
    return head


def _set_ledger(server: Path, url: str) -> None:
    """Write into server.toml where the ledger is; "": in the folder."""
    document = load_settings_file(server / FILE)
    table = {key: value for key, value in document.get("server", {}).items() if key != "ledger"}
    document["server"] = {**table, **({"ledger": url} if url else {})}
    (server / FILE).write_text(tomli_w.dumps(document), encoding="utf-8")


def _move(staging: Path, to: Path) -> None:
    """Put the folders into their places, the server's last; all that is in them is on the disk before.

    On failure they are moved back to `staging`, the server's first: until it is, its ledger stays too.
    """
    authority, moved = to.parent / "authority", list[tuple[Path, Path]]()
    with explained(to):
        for path in (staging, *staging.rglob("*")):
            _sync(path)
        parts = [(staging / "authority", authority)] if not authority.exists() else []
        try:
            for source, target in [*parts, (staging / "server", to)]:  # `to` may be an empty folder
                if source.exists():
                    source.chmod(0o700)
                    moved.append((source, target))
                    source.rename(target)
                    sync_folder(to.parent)
        except BaseException:  # stopped by its user too
            for source, target in reversed(moved):
                with suppress(OSError):  # the first error is the one to show
                    target.rename(source)
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
