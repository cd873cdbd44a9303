"""Which code from a server a device runs: only what its owner approved.

Flower carries an app to the devices in each run, as a bundle (a zip file), and whoever may start runs at the server
may send any. The app of `fedquit serve` only names the installed fedquit, so the device recognises it by the digest of
its code; settings are not part of the digest. A bundle with other code is stored in KIT/refused for its owner to
inspect, and none of it is run, unless device.toml approves its digest.
"""

import hashlib
import io
import json
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedquit.client.kit import FILE, Kit
from fedquit.errors import OtherCodeError
from fedquit.files import explained, write_whole

FORM = '"""Made by `fedquit serve`."""\n\n{line}\n\n__all__ = ["app"]\n'
APP_FILES: Mapping[str, str] = {
    "deployed/__init__.py": '"""The app of a deployed federation."""\n',
    "deployed/client_app.py": FORM.format(line="from fedquit.client.app import app"),
    "deployed/server_app.py": FORM.format(line="from fedquit.server.app import deployed as app"),
}
"""The code of a deployed app, by the path of each file: a device never imports what is the server's."""
COMPONENTS: Mapping[str, str] = {
    "serverapp": "deployed.server_app:app",
    "clientapp": "deployed.client_app:app",
}
"""Where Flower finds the two apps in it."""
PROJECT, LISTING = "pyproject.toml", ".info/"
LARGEST = 50_000_000
"""Bytes that a bundle may have, and may unpack to."""
REFUSED, KEPT = "refused", 5
"""Folder of the kit with the bundles that were refused, and how many of them stay: a server may send any number."""


def code_digest(files: Mapping[str, bytes], components: object) -> str:
    """Return the hex SHA-256 of code: of every file with its path, and of where Flower finds the apps in it.

    >>> code_digest({"a.py": b"1"}, {}) == code_digest({"a.py": b"2"}, {})
    False
    """
    listed = [[name, hashlib.sha256(content).hexdigest()] for name, content in sorted(files.items())]
    return hashlib.sha256(json.dumps([listed, components], sort_keys=True).encode()).hexdigest()


def bundle_digest(bundle: bytes) -> str:
    """Return the digest of the code in a bundle; settings in its pyproject.toml do not count as code.

    Raises:
        OtherCodeError: it is no bundle, or one whose files cannot be told apart.
    """
    if len(bundle) > LARGEST:
        raise OtherCodeError(f"the server sent a bundle of more than {LARGEST:,} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len({name.casefold() for name in names}) != len(names):
                raise OtherCodeError("the server sent a bundle in which a file is there twice")
            if sum(entry.file_size for entry in entries) > LARGEST:
                raise OtherCodeError(f"the server sent a bundle that unpacks to more than {LARGEST:,} bytes")
            files = {entry.filename: archive.read(entry) for entry in entries}
        project: Any = tomllib.loads(files.pop(PROJECT).decode())
        components = project["tool"]["flwr"]["app"]["components"]
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, RuntimeError, NotImplementedError, EOFError) as error:
        raise OtherCodeError(f"the server sent something that is no Flower app: {error!r}") from None
    return code_digest({name: text for name, text in files.items() if not name.startswith(LISTING)}, components)


def is_unpacked(bundle: bytes, place: Path) -> bool:
    """Say whether a folder holds the files of a bundle (a valid one) and nothing else, such as compiled code."""
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        names = (name for name in archive.namelist() if not name.startswith(LISTING) and not name.endswith("/"))
        sent = {name: archive.read(name) for name in names}
    found = [path for path in place.rglob("*") if path.is_symlink() or not path.is_dir()]
    if any(path.is_symlink() for path in (place, *found)):
        return False
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in found} == sent


OWN = code_digest({name: text.encode() for name, text in APP_FILES.items()}, dict(COMPONENTS))
"""Digest of the app that this fedquit's own server sends."""


def check_bundle(bundle: bytes, kit: Kit) -> None:
    """Refuse a bundle whose code is neither this fedquit's own app nor approved in the kit.

    Raises:
        OtherCodeError: naming its digest, where it was put, and how to approve it.
    """
    digest = bundle_digest(bundle)
    if digest == OWN or digest in kit.approve:
        return
    place = kit.folder / REFUSED / f"{digest[:16]}.zip"
    with explained(place):
        place.parent.mkdir(mode=0o700, exist_ok=True)
        others = [(path.stat().st_mtime, path) for path in place.parent.glob("*.zip") if path != place]
        for _, oldest in sorted(others)[: max(0, len(others) - KEPT + 1)]:
            oldest.unlink(missing_ok=True)
    write_whole(place, bundle)
    raise OtherCodeError(
        f"the server sent other code than this device runs, and nothing of it was run; look at {place}, and if it is "
        f'to run here, add approve = ["{digest}"] to {FILE} in the kit'
    )
