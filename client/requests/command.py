"""The commands of a device's owner or an operator: forget, status, watch, receipt, requests."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedquit.errors import FedquitError, InputError, unknown
from fedquit.finite_range import FiniteRange

if TYPE_CHECKING:
    from fedquit.client.requests.channel import ForgetService
    from fedquit.client.requests.signed_request import Granularity

KIT = click.argument("kit", type=click.Path(path_type=Path))
REQUEST = click.argument("request_id", metavar="ID")
JSON = click.option("--json", "as_json", is_flag=True, help="print JSON, and nothing else")
TIMEOUT = click.option(
    "--timeout", type=FiniteRange(min=0, min_open=True), metavar="SECONDS", help="give up after SECONDS"
)


@click.command()
@KIT
@click.option(
    "--samples", type=click.Path(path_type=Path), metavar="FILE", help="file listing sample names, one per line"
)
@click.option("--class", "classes", type=click.IntRange(min=0), multiple=True, help="a class, for an operator")
@click.option("--device", metavar="KEY", help="whose data, for an operator: a fingerprint or a .pub file")
@click.option("--note", default="", help="a word to the operator, at most 500 characters")
@click.option("--wait", is_flag=True, help="until it has ended")
@TIMEOUT
@JSON
def forget(
    kit: Path,
    samples: Path | None,
    classes: tuple[int, ...],
    device: str | None,
    note: str,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Ask that what the device of KIT contributed be forgotten, or only some of its samples.

    What is asked is kept in KIT before it is sent: called again after a crash, this sends the same ask, not another.

    \b
    fedquit forget kit                         the device leaves: all of it
    fedquit forget kit --samples names.txt     only these samples; which they are stays on the device
    fedquit forget operator --class 3          an operator: a class, wherever it lies
    """  # noqa: D301 - click's sign that lines stay as they are
    from fedquit.client.device.local_data.sample_names import digests_of, marking, names_in, salt_of
    from fedquit.client.requests.request_text import change_document, request_document, request_lines
    from fedquit.client.requests.submit_once import ask_once, ended, follow

    if samples and classes:
        raise InputError("--samples and --class exclude each other")
    granularity: Granularity = "sample" if samples else "class" if classes else "client"
    names = names_in(samples) if samples else ()
    with _service(kit) as service:
        digests = digests_of(service.kit, names)
        answer = ask_once(
            service,
            granularity,
            subject=_subject(device),
            classes=classes,
            samples=digests,
            salt=salt_of(service.kit, digests),
            note=note,
            before_sending=marking(service.kit, granularity, digests),
        )
        request = answer.request
        if not as_json:
            _say("this was asked before" if answer.known else "asked", *request_lines(request))
            _say("", f"What comes next: fedquit watch {kit} {request.id[:12]}")
        changes = []
        if wait:
            for change in follow(service, request.id, seconds=timeout or float("inf")):
                changes.append(change_document(change))
                if not as_json:
                    _say_change(change)
            request = ended(service, request.id)
        if as_json:
            document = {**request_document(request), "known": answer.known}
            click.echo(json.dumps({**document, "changes": changes} if wait else document, indent=1))


@click.command()
@KIT
@REQUEST
@JSON
def status(kit: Path, request_id: str, as_json: bool) -> None:
    """Show where request ID is now; the first digits of the id are enough."""
    from fedquit.client.requests.request_text import request_document, request_lines
    from fedquit.client.requests.submit_once import resolve

    with _service(kit) as service:
        request = service.status(resolve(service, request_id))
    click.echo(json.dumps(request_document(request), indent=1) if as_json else "\n".join(request_lines(request)))


@click.command()
@KIT
@REQUEST
@TIMEOUT
@JSON
def watch(kit: Path, request_id: str, timeout: float | None, as_json: bool) -> None:
    """Show each state of request ID as it comes, to its last; with --json, a document a line.

    Ends with 0 when it is done, 1 when it was refused or has failed, 3 when --timeout is over, 6 when the data is
    forgotten but the model did not recover.
    """
    from fedquit.client.requests.request_text import change_document
    from fedquit.client.requests.submit_once import follow, resolve

    with _service(kit) as service:
        try:
            for change in follow(service, resolve(service, request_id), seconds=timeout or float("inf")):
                if as_json:
                    click.echo(json.dumps(change_document(change)))
                else:
                    _say_change(change)
        except KeyboardInterrupt:
            raise FedquitError("stopped watching; the request continues") from None


@click.command()
@KIT
@REQUEST
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), metavar="FILE", help="where to write it [ID.receipt.json]"
)
@JSON
def receipt(kit: Path, request_id: str, out: Path | None, as_json: bool) -> None:
    """Fetch the signed receipt of request ID, which anyone can check with `fedquit verify`."""
    from fedquit.client.requests.submit_once import resolve
    from fedquit.files import write_whole

    with _service(kit) as service:
        request = resolve(service, request_id)
        content = service.receipt(request)
        file = out or Path(f"{request[:12]}.receipt.json")
        write_whole(file, content)
        if as_json:
            click.echo(json.dumps({"id": request, "file": str(file), "bytes": len(content)}))
        else:
            click.echo(f"Receipt: {file}; check it with: fedquit verify {file} --kit {kit}")


@click.command()
@KIT
@click.option("--status", "state", default="", metavar="STATE", help="only those that are asked, done, ...")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="N",
    help="show at most N, newest first",
)
@JSON
def requests(kit: Path, state: str, limit: int, as_json: bool) -> None:
    """List the requests of KIT, newest first; an operator sees those of all devices."""
    from fedquit.client.requests.request_text import STATES, request_document, what, when

    if state and state not in STATES:
        raise unknown("state", state, STATES)
    with _service(kit) as service:
        found: list[Any] = []
        before, more = "", True
        while more and len(found) < limit:
            page = service.requests(status=state, limit=min(limit - len(found), 100), before=before)
            found += page.requests
            more = page.more and bool(page.requests)
            before = found[-1].id if found else ""
    if as_json:
        click.echo(json.dumps({"requests": [request_document(one) for one in found], "more": more}, indent=1))
        return
    for one in found:
        click.echo(f"{one.id[:12]}  {one.status:<10}  {when(one.asked_at)}  {what(one)}")
    if not found:
        _say("no requests")


def _service(folder: Path) -> "ForgetService":
    """Connect as the member that the kit makes."""
    from fedquit.client.kit import Kit
    from fedquit.client.requests.channel import ForgetService

    return ForgetService(Kit.read(folder))


def _subject(device: str | None) -> str:
    """Return the fingerprint that names a device."""
    from fedquit.client.requests.keys import FINGERPRINT, fingerprint, read_public

    if not device or FINGERPRINT.fullmatch(device):
        return device or ""
    if not Path(device).is_file():
        raise InputError(
            f"--device '{device}' is neither a file nor a fingerprint of 64 hex digits, which `fedquit member list "
            "SERVER` and the operator's page show; a device's public key is node.pub in its kit"
        )
    return fingerprint(read_public(Path(device)))


def _say_change(change: Any) -> None:
    from fedquit.client.requests.request_text import STATES, when

    click.echo(f"{when(change.at)}  {change.status}: {change.reason or STATES.get(change.status, '')}")


def _say(*lines: str) -> None:
    click.echo("\n".join(lines), err=True)
