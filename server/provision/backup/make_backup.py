"""Back up a server, also while it runs.

It contains server.toml, the certificate and keys, the page's token, the ledger, the current models, the state that
rounds keep for the next ones, data that server.toml names inside the folder, and the authority if it is next to the
folder. Models are copied before and after the ledger: a step writes its model before the ledger names it, so every
model that the copied ledger still needs is in the backup.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedquit import __version__
from fedquit.errors import FedquitError, InputError
from fedquit.files import explained, sync_folder
from fedquit.server.federation import FILE, Federation
from fedquit.server.provision.backup.archive import NAME, Manifest, digest_of_file, write_archive
from fedquit.server.provision.backup.ledger_copy import copy_ledger, is_ledger_of, where_it_is
from fedquit.server.provision.backup.unfinished_backup import backup_folders

NEEDED = (FILE, "ca.crt", "server.pem", "server.key", "receipts.key", "receipts.pub")
WHERE_THERE = ("page.token", "costs.csv")
FOLDERS = ("models", "kept", "history")
AUTHORITY = ("ca.crt", "ca.key")
TRIES = 3


@dataclass(frozen=True, slots=True)
class Backup:
    """A finished backup.

    Attributes:
        path: of its file.
        manifest: what is in it.
        private: the names of the private files in it.
        left_out: data that server.toml names and that is not in it, as it lies outside the server's folder.
    """

    path: Path
    manifest: Manifest
    private: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def make_backup(folder: Path, to: Path, *, with_authority: bool = True, with_ledger: bool = True) -> Backup:
    """Write the backup of the server in `folder` into the new file `to`, for its owner alone.

    Args:
        folder: of the server.
        to: the file; in a folder that is there, one named by federation and time is made.
        with_authority: whether the authority's key and certificate are to be in it, where they lie beside the folder.
        with_ledger: whether the ledger is; without, back it up by other means.

    Raises:
        InputError: it is no server's folder, or the file is there already.
        FedquitError: it cannot be written.
    """
    federation, folder = Federation.read(folder), folder.resolve()
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}: it is not a server's folder as provision makes it")
    now = time.time()
    if to.is_dir():
        to /= f"{federation.name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}.tar"
    if to.exists():
        raise InputError(f"{to} is there already; give another name")
    data, left_out = trusted_data(folder, federation)
    with backup_folders(folder, to) as (links, work):
        with explained(to):
            files, number, digest = _gathered(folder, federation, links, work, with_ledger=with_ledger)
        files |= data
        if with_authority:
            files |= _there(folder.parent / "authority", AUTHORITY, "authority")
        kind = is_ledger_of(federation.ledger_url(folder)) if with_ledger else ""
        for name, path in files.items():
            if not NAME.fullmatch(name):
                raise InputError(f"{path} has a name that a backup cannot hold; rename it")
        listed = {name: digest_of_file(path) for name, path in sorted(files.items())}
        manifest = Manifest(federation.name, __version__, now, kind, number, digest, listed)
        with explained(to):
            _write(work / "backup", manifest, {name: files[name] for name in listed}, folder / "receipts.key")
            (work / "backup").rename(to)
            sync_folder(to.absolute().parent)
    return Backup(to, manifest, tuple(name for name in listed if is_private(name)), left_out)


def trusted_data(folder: Path, federation: Federation) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the files of the server's validation set by their names in a backup, and what is outside the folder.

    Only what server.toml names by a path within the folder is where it says after a restore.
    """
    data = federation.trusted.data
    if not data:
        return {}, ()
    inside = Path(os.path.normpath(data))
    if inside.is_absolute() or inside.parts[:1] == (os.pardir,):
        return {}, (data,)
    return {f"server/{inside.as_posix()}/{inner}".rstrip("/"): path for inner, path in _inside(folder / inside)}, ()


def is_private(name: str) -> bool:
    """Say whether a file of a backup is a secret.

    >>> [name for name in ("server/server.key", "server/page.token", "server/ca.crt") if is_private(name)]
    ['server/server.key', 'server/page.token']
    """
    return name.endswith((".key", ".token"))


def _gathered(
    folder: Path, federation: Federation, links: Path, work: Path, *, with_ledger: bool
) -> tuple[dict[str, Path], int, str]:
    """Return the files of the server by their names, those that may go meanwhile copied; and the head of the ledger."""
    for path in _there(folder, WHERE_THERE, "server").values():
        shutil.copyfile(path, work / path.name)  # rows are added to the cost log meanwhile
    files, url = (
        {**_there(folder, NEEDED, "server"), **_there(work, WHERE_THERE, "server")},
        federation.ledger_url(folder),
    )
    number, digest, _ = where_it_is(url)
    for _ in range(TRIES):
        _copy_folders(folder, links)
        if with_ledger:
            for left in work.glob("ledger.*"):
                left.unlink()
            copy = copy_ledger(url, work)
            files[f"server/{copy.name}"] = copy
        _copy_folders(folder, links)
        *_, model = where_it_is(url)
        if not model or (links / "models" / f"{model}.safetensors").exists():
            break
    else:
        raise FedquitError(f"the model {model[:12]} is not in {folder / 'models'}, or models came and went; try again")
    for name in FOLDERS:
        files |= {f"server/{name}/{inner}": path for inner, path in _inside(links / name)}
    return files, number, digest


def _copy_folders(folder: Path, links: Path) -> None:
    """Copy the files of `FOLDERS` that are not copied yet; one that goes meanwhile is needed no more."""
    for name in FOLDERS:
        for inner, path in _inside(folder / name):
            target = links / name / inner
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):
                    _copy(path, target)


def _copy(path: Path, target: Path) -> None:
    """Copy a file that is only ever replaced as a whole, without its bytes where that can be."""
    try:
        target.hardlink_to(path)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copyfile(path, target)


def _there(folder: Path, names: tuple[str, ...], under: str) -> dict[str, Path]:
    return {f"{under}/{name}": folder / name for name in names if (folder / name).is_file()}


def _inside(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files in a folder with their names in it, or a file itself; what is not finished is left out."""
    if path.is_file():
        yield "", path
    for each in sorted(path.rglob("*")) if path.is_dir() else ():
        if each.is_file() and not any(part.startswith(".") for part in each.relative_to(path).parts):
            yield each.relative_to(path).as_posix(), each


def _write(path: Path, manifest: Manifest, files: dict[str, Path], key_file: Path) -> None:
    key = load_pem_private_key(key_file.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{key_file} is not an Ed25519 key")
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        write_archive(file, manifest.signed(key), files, manifest)
        file.flush()
        os.fsync(file.fileno())
