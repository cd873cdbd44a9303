"""The commands `fedquit member ...`, on a server's folder, also while it serves: who is enrolled, revocation."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedquit.errors import InputError

if TYPE_CHECKING:
    from fedquit.server.ledger import Ledger, Member

FOLDER = click.argument("folder", type=click.Path(path_type=Path))
AS_JSON = click.option("--json", "as_json", is_flag=True, help="print as one JSON document, and nothing else")


@click.group()
def member() -> None:
    """List the members of a server's federation, revoke or replace their keys, remove who never contributed."""


@member.command(name="list")
@FOLDER
@AS_JSON
def list_members(folder: Path, as_json: bool) -> None:
    """List the members of the server in FOLDER: number, role, status, name, fingerprint of the key."""
    with _ledger(folder, write=False) as ledger:
        found, at = ledger.members(), ledger.revocations()
    if as_json:
        click.echo(json.dumps([_document(one, at.get(one.fingerprint)) for one in found], indent=1))
        return
    for one in found:
        click.echo(f"{one.number:>4}  {one.role:<8}  {one.status:<9}  {one.name}  {one.fingerprint}")


@member.command()
@FOLDER
@click.argument("name")
@click.option("--reason", default="", help="for the audit log")
@click.option("--refuse-asked", is_flag=True, help="also refuse this key's asks that have not been started")
@AS_JSON
def revoke(folder: Path, name: str, reason: str, refuse_asked: bool, as_json: bool) -> None:
    """Revoke the key of member NAME, or of a fingerprint, permanently: whatever it signs is refused from now on.

    A device is given no more work, and Flower lets its node in no more. The data that it gave is still in the model: an
    operator can ask that it be forgotten. To come back it needs a new key: fedquit member rotate.
    """
    with _ledger(folder, write=True) as ledger:
        known = ledger.revocations()
        changed, refused = ledger.revoke(_named(ledger, name).number, reason=reason, refuse_asked=refuse_asked)
        left = [one for one in ledger.requests(status="asked") if one.asked_by == changed.fingerprint]
        at = ledger.revocations()[changed.fingerprint]
    if as_json:
        ids = {"refused": [one.id for one in refused], "still_asked": [one.id for one in left]}
        click.echo(json.dumps({**_document(changed, at), "known": changed.fingerprint in known, **ids}, indent=1))
        return
    state = "was revoked before" if changed.fingerprint in known else "is revoked"
    click.echo(f"the key of {changed.role} {changed.number} {changed.name} {state}: {changed.fingerprint}")
    for one in refused:
        click.echo(f"refused: request {one.id}")
    for one in left:
        click.echo(f"still asked by it: request {one.id}; again with --refuse-asked refuses it", err=True)


@member.command()
@FOLDER
@click.argument("name", required=False)
@click.option("--request", type=click.Path(path_type=Path), help="new-key.json, which `fedquit rotate KIT` wrote")
@click.option(
    "--public-key", type=click.Path(path_type=Path), help="the new key, on your own word: the old one is lost"
)
@AS_JSON
def rotate(folder: Path, name: str | None, request: Path | None, public_key: Path | None, as_json: bool) -> None:
    """Replace the key of a device or an operator: it stays who it is, and nothing that the old key signs is taken.

    With --request the holder of the old key says so, and the holder of the new one. Where the old key is lost, or was
    stolen and revoked, give NAME and --public-key: then make sure by other means whose key that is.
    """
    from fedquit.client.requests.keys import read_public
    from fedquit.client.requests.new_key import read_new_key
    from fedquit.server.federation import Federation

    if (request is None) == (public_key is None) or (name is None) != (public_key is None):
        raise InputError("give --request FILE, or NAME and --public-key FILE")
    with _ledger(folder, write=True) as ledger:
        if public_key is not None:
            changed = ledger.rotate(_named(ledger, str(name)).number, read_public(public_key))
        else:
            keys = {one.fingerprint: one for one in ledger.members()}
            content = _bytes(request or Path())
            try:
                new = read_new_key(content, lambda old: keys[old].key if old in keys else None)
            except InputError as error:
                raise InputError(f"{request}: {error}") from None
            if new.federation != Federation.read(folder).name:
                raise InputError(f"{request} is for the federation '{new.federation}'")
            changed = ledger.rotate(keys[new.old].number, new.key, old=new.old)
    if as_json:
        click.echo(json.dumps(_document(changed, None), indent=1))
        return
    click.echo(f"{changed.role} {changed.number} {changed.name} has the key {changed.fingerprint} now")
    click.echo("on its side: fedquit rotate KIT --use; Flower lets it in within a minute", err=True)


@member.command()
@FOLDER
@click.argument("name")
@AS_JSON
def remove(folder: Path, name: str, as_json: bool) -> None:
    """Remove device NAME, which never contributed to a model, so that nothing waits for it.

    What a device contributed must be forgotten instead: see fedquit forget.
    """
    with _ledger(folder, write=True) as ledger:
        changed = ledger.remove(_named(ledger, name).number)
    if as_json:
        click.echo(json.dumps(_document(changed, None), indent=1))
        return
    click.echo(f"{changed.role} {changed.number} {changed.name} is {changed.status}: it never contributed")
    click.echo("also take it out of federation.toml", err=True)


@member.command()
@FOLDER
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("revoked.json"), show_default=True)
def revocations(folder: Path, out: Path) -> None:
    """Write the signed list of revoked keys of the server in FOLDER, for `fedquit verify --revoked`."""
    from fedquit.client.receipts.revocations import signed_revocations
    from fedquit.files import write_whole
    from fedquit.server.federation import Federation
    from fedquit.server.receipts.make_receipt import read_receipts_key

    name, key = Federation.read(folder).name, read_receipts_key(folder / "receipts.key")
    with _ledger(folder, write=False) as ledger:
        found = ledger.revocations()
    write_whole(out, signed_revocations(name, found, time.time(), key))
    click.echo(f"{len(found)} revoked: {out}; hold a receipt against it with fedquit verify --revoked {out}", err=True)


@contextmanager
def _ledger(folder: Path, *, write: bool) -> Iterator["Ledger"]:
    """Open the ledger of the server in a folder."""
    from fedquit.server.federation import Federation
    from fedquit.server.ledger import Ledger
    from fedquit.server.ledger.audit_log.seal import read_seal

    url = Federation.read(folder).ledger_url(folder)
    Ledger.open(url, write=False).close()  # a new one is not made by mistake
    opened = Ledger.open(url, seal=read_seal(folder / "receipts.key") if write else None, write=write)
    try:
        yield opened
    finally:
        opened.close()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _named(ledger: "Ledger", name: str) -> "Member":
    """Return the member of that name, or whose fingerprint begins so.

    Raises:
        InputError: there is none, or more than one.
    """
    members = ledger.members()
    found = [one for one in members if one.name == name]
    if not found and len(name) >= SHORTEST:
        found = [one for one in members if one.fingerprint.startswith(name.lower())]
    if len(found) != 1:
        how = "no member" if not found else f"{len(found)} members"
        names = ", ".join(one.name for one in members) or "none"
        raise InputError(f"{how} here is called '{name}', or has such a fingerprint; there are: {names}")
    return found[0]


SHORTEST = 8
"""Hex digits of a fingerprint that name a member."""


def _document(one: "Member", revoked_at: float | None) -> dict[str, Any]:
    """Return a member as a document; its key is left out, as the fingerprint names it."""
    fields = ("number", "name", "role", "status", "fingerprint", "enrolled_at")
    return {**{field: getattr(one, field) for field in fields}, "revoked_at": revoked_at}
