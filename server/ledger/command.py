"""The commands `fedquit ledger ...`, by which an auditor reads and checks a ledger: parse, make one call, print."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedquit.errors import InputError

if TYPE_CHECKING:
    from fedquit.server.ledger import Event, Seal
    from fedquit.server.ledger.audit_log.mark import Mark

WHERE = click.argument("where", metavar="FOLDER|FILE|URL")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="print as one JSON document, and nothing else")
KEY = click.option(
    "--key", type=click.Path(path_type=Path), metavar="FILE", help="key that seals [FOLDER/receipts.pub]"
)


@click.group()
def ledger() -> None:
    """Check, read and export the ledger of a server: its folder, its ledger.db, or the URL of its database."""


@ledger.command()
@WHERE
@KEY
@click.option("--noted", metavar="NUMBER:DIGEST", help="an event noted earlier; the log must still contain it")
@click.option(
    "--receipt",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="a receipt; the log must still contain the event that it names",
)
@click.option(
    "--since", type=click.Path(path_type=Path), metavar="FILE", help="check only what came after the mark in FILE"
)
@click.option("--full", is_flag=True, help="with --since: check everything, and write the mark")
@AS_JSON
def check(
    where: str,
    key: Path | None,
    noted: str | None,
    receipt: Path | None,
    since: Path | None,
    full: bool,
    as_json: bool,
) -> None:
    """Say whether any row was edited, removed, inserted or reordered; exit code 1 if so.

    With --since only what came after the last such check is read, and FILE remembers how far that was; keep it where
    whoever can write the database cannot. Without a FILE yet, everything is checked and FILE is made.

    \b
    fedquit ledger check server/ --noted 1204:9f86d081...
    fedquit ledger check server/ --since checked.json
    """  # noqa: D301 - click's sign that lines stay as they are
    from fedquit.files import write_whole
    from fedquit.server.ledger import Ledger
    from fedquit.server.ledger.find_ledger import find_ledger

    if sum(given is not None for given in (since, noted, receipt)) > 1:
        raise InputError("--since, --noted and --receipt exclude each other: each names an event itself")
    seal, mark = _seal(where, key), None if since is None or full else _mark(since)
    seen = _noted(noted) if receipt is None else _event_of(receipt, _public(where, key))
    opened = Ledger.open(find_ledger(where), seal=seal, write=False)
    try:
        wrong, reached = opened.check_on(mark) if since else (opened.check_chain(noted=seen), None)
        number, digest = (reached.number, reached.digest) if reached else opened.head()
    finally:
        opened.close()
    if since is not None and reached is not None:
        write_whole(since, reached.text().encode())
    if as_json:
        found = {"sound": not wrong, "wrong": wrong, "events": number, "head": digest, "seal_checked": seal is not None}
        click.echo(json.dumps({**found, "since": mark.number if mark else 0}, indent=1))
    else:
        for line in wrong:
            click.echo(_printable(line))
        sealed = "seal checked" if seal else "seal not checked: no --key"
        from_there = f", {number - mark.number} since event {mark.number} checked" if mark else ""
        click.echo(f"{len(wrong)} wrong" if wrong else f"Sound: {number} events{from_there}, {sealed}.", err=True)
        click.echo(f"Head: {number}:{digest}", err=True)
    if wrong:
        raise click.exceptions.Exit(1)


@ledger.command()
@WHERE
@click.option("--request", metavar="ID", help="of this request only")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="NUMBER", help="after this event only")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="the first N only")
@AS_JSON
def events(where: str, request: str | None, after: int, limit: int | None, as_json: bool) -> None:
    """Print the audit log, a line for each event, oldest first."""
    from fedquit.server.ledger import Ledger
    from fedquit.server.ledger.find_ledger import find_ledger

    opened = Ledger.open(find_ledger(where), write=False)
    try:
        found = opened.events(request=request, after=after, limit=limit)
    finally:
        opened.close()
    if as_json:
        click.echo(json.dumps([asdict(event) for event in found], indent=1))
    else:
        for event in found:
            click.echo(_line(event))


@ledger.command()
@WHERE
def export(where: str) -> None:
    """Print every row as a line of JSON: members, requests, steps, events, head. docs/ledger.md says what each is."""
    from fedquit.server.ledger import Ledger
    from fedquit.server.ledger.find_ledger import find_ledger

    opened = Ledger.open(find_ledger(where), write=False)
    try:
        for row in opened.export():
            click.echo(json.dumps(row, allow_nan=False))
    finally:
        opened.close()


@ledger.command()
@WHERE
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), metavar="FILE", help="private key that seals from now on"
)
@click.option("--before", type=click.Path(path_type=Path), metavar="FILE", help="key that has sealed so far, if any")
def seal(where: str, key: Path, before: Path | None) -> None:
    """Seal the log with another key than before, or for the first time; only if nothing is wrong with it."""
    from fedquit.server.ledger import Ledger
    from fedquit.server.ledger.audit_log.seal import read_seal
    from fedquit.server.ledger.find_ledger import find_ledger

    url = find_ledger(where)
    Ledger.open(url, write=False).close()  # a new one is not made by mistake
    opened = Ledger.open(url, seal=read_seal(before) if before else None)
    try:
        opened.reseal(read_seal(key))
    finally:
        opened.close()
    click.echo(f"Sealed with {key}.", err=True)


def _seal(where: str, key: Path | None) -> "Seal | None":
    """Read the key that checks the seal: the one given, or that of the server's folder."""
    from fedquit.server.ledger.audit_log.seal import read_seal

    found = _public(where, key)
    return None if found is None else read_seal(found)


def _public(where: str, key: Path | None) -> Path | None:
    """Return the key file that was given, or that of the server's folder; None: there is neither."""
    public = Path(where) / "receipts.pub"
    return public if key is None and "://" not in where and public.is_file() else key


def _event_of(receipt: Path, key: Path | None) -> tuple[int, str]:
    """Return number and digest of the event that a receipt says was the last when it was signed."""
    from fedquit.client.receipts import read_receipt
    from fedquit.client.receipts.verify_receipt import content_of, receipts_key

    if key is None:
        raise InputError("--receipt needs --key receipts.pub, the key that it was signed with")
    log = read_receipt(content_of(receipt), receipts_key(key)).predicate["log"]
    try:
        return int(log["event"]), str(log["digest"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{receipt} does not name an event of the log") from None


def _mark(path: Path) -> "Mark | None":
    """Read the mark in a file; None: there is no file yet."""
    from fedquit.server.ledger.audit_log.mark import Mark

    try:
        return Mark.read(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _noted(text: str | None) -> tuple[int, str] | None:
    """Read NUMBER:DIGEST."""
    if text is None:
        return None
    number, _, digest = text.partition(":")
    if not number.isdecimal() or not digest:
        raise InputError(f"--noted is '{text}'; write NUMBER:DIGEST, as 'fedquit ledger check' prints the head")
    return int(number), digest


def _line(event: "Event") -> str:
    """Return an event for people."""
    at = datetime.fromtimestamp(event.at, UTC).isoformat(" ", "seconds").replace("+00:00", "Z")
    about = [f"request {event.request[:12]}"] if event.request else []
    about += [f"member {event.member}"] if event.member is not None else []
    logged = [f"{name}={json.dumps(value)}" for name, value in event.facts.items() if name != "rows"]
    return _printable("  ".join([f"{event.number:>6}", at, event.kind, *about, *logged]))


def _printable(text: str) -> str:
    """Return `text` with what would steer a terminal escaped: someone may have edited the rows."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
