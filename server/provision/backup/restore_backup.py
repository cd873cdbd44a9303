"""Restore a backup into a new folder: all of it, checked, or nothing.

It is unpacked next to its destination, compared with its manifest, checked as a server's folder, and only then moved
there. With `key` it is certain that this federation's server made it; a backup of PostgreSQL's ledger is run as SQL.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import tomli_w

from fedquit.client.receipts.verify_receipt import receipts_key
from fedquit.errors import FedquitError, InputError
from fedquit.files import explained
from fedquit.server.federation import FILE, Federation
from fedquit.server.ledger import Ledger
from fedquit.server.ledger.audit_log.seal import read_seal
from fedquit.server.provision.backup.archive import Manifest, opened_archive
from fedquit.server.provision.backup.ledger_copy import POSTGRESQL, is_ledger_of, restore_postgresql
from fedquit.server.provision.backup.make_backup import NEEDED, is_private
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
        with explained(to.parent):
            staging = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))  # for its owner alone
        try:
            unpack(lambda name: _opened(staging, name))
            server = staging / "server"
            missing = [name for name in NEEDED if not (server / name).is_file()]
            if missing:
                raise InputError(f"it lacks {', '.join(missing)}")
            manifest.check(signature, receipts_key(server / "receipts.pub"))
            event, head = _checked(server, manifest, ledger)
            _move(staging, to)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    write_deployment_files(to, Federation.read(to))
    return Restored(to, manifest, event, head)


def _check_room(manifest: Manifest, to: Path) -> None:
    size = sum(size for size, _ in manifest.files.values())
    with explained(to.parent):
        to.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(to.parent).free
    if size > free:
        raise FedquitError(f"{to.parent} has {free:,} bytes free, and the backup holds {size:,}; make room")
    authority = to.parent / "authority"
    if any(name.startswith("authority/") for name in manifest.files) and authority.exists():
        raise InputError(f"{authority} is there already, and the backup has an authority; restore into another folder")


def _opened(staging: Path, name: str) -> IO[bytes]:
    """Open a new file of the restored folder, a secret for its owner alone."""
    path = staging / name
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        secret = is_private(name) or "ledger" in path.name
        return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if secret else PUBLIC), "wb")


def _checked(server: Path, manifest: Manifest, url: str) -> tuple[int, str]:
    """Check the restored server, bring its ledger into its database, and return the ledger's head."""
    federation = Federation.read(server)
    if federation.name != manifest.federation:
        raise InputError(f"its server.toml is of '{federation.name}', and it says '{manifest.federation}'")
    if not manifest.ledger:
        return manifest.event, manifest.head
    if url:
        _set_ledger(server, url)
        federation = Federation.read(server)
    if manifest.ledger == "postgresql":
        url = federation.ledger_url(server)
        restore_postgresql(server / POSTGRESQL, url)
        (server / POSTGRESQL).unlink()
    elif is_ledger_of(federation.ledger_url(server)) != "sqlite" or federation.server.ledger:
        _set_ledger(server, "")  # its file is in the folder now, wherever it was
        federation = Federation.read(server)
    ledger = Ledger.open(federation.ledger_url(server), seal=read_seal(server / "receipts.key"))
    try:
        wrong, (event, head) = ledger.check_chain(), ledger.head()
    finally:
        ledger.close()
    if wrong:
        raise FedquitError(f"its ledger does not hold: {wrong[0]} ({len(wrong)} in all); it is a plain tar, to look at")
    return event, head


def _set_ledger(server: Path, url: str) -> None:
    """Write into server.toml where the ledger is; "": in the folder."""
    document = load_settings_file(server / FILE)
    table = {key: value for key, value in document.get("server", {}).items() if key != "ledger"}
    document["server"] = {**table, **({"ledger": url} if url else {})}
    (server / FILE).write_text(tomli_w.dumps(document), encoding="utf-8")


def _move(staging: Path, to: Path) -> None:
    """Put the folders into their places; the server's last."""
    with explained(to):
        if (staging / "authority").exists():
            (staging / "authority").chmod(0o700)
            (staging / "authority").rename(to.parent / "authority")
        (staging / "server").chmod(0o700)
        if to.exists():
            to.rmdir()
        (staging / "server").rename(to)
