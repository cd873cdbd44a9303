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
    """List the members of a server's federation, and revoke their keys."""


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
    operator can ask that it be forgotten. A member whose key is revoked comes back under another name, with a new key.
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
