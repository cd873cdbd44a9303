"""The device owner's commands `fedquit join` and `fedquit leave`: each parses, makes one call, prints."""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fedquit.client.kit import FILE, Kit
from fedquit.documents import counted
from fedquit.errors import InputError
from fedquit.finite_range import FiniteRange
from fedquit.processes.chosen_device import device_options

KIT = click.argument("kit", type=click.Path(path_type=Path))


@click.command()
@KIT
@click.option("--check", "only_check", is_flag=True, help="check the device and start nothing")
@click.option(
    "--silent",
    type=FiniteRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="reconnect if the server is reachable but did not answer Flower for SECONDS",
)
@device_options
@click.option("--json", "as_json", is_flag=True, help="print every event as a line of JSON, and nothing else")
def join(kit: Path, only_check: bool, silent: float, as_json: bool) -> None:
    """Run the device of KIT in its federation: it trains when the server asks, and forgets.

    Checks the kit first. Restarts what dies or has lost its connection, and resumes after a crash. End it with Ctrl-C
    or SIGTERM.
    """
    from fedquit.client.device.join import check, line_of, make_device

    if (kit / FILE).is_file() and (member := Kit.read(kit)).role == "operator":
        raise InputError(f"{kit} is the kit of operator '{member.name}', which has no data: join with a device's kit")

    def tell(event: Mapping[str, Any]) -> None:
        entry = {"at": round(time.time(), 3), **event}
        click.echo(json.dumps(entry) if as_json else f"{time.strftime('%H:%M:%S')} {line_of(event)}")

    code = check(kit, tell, patient=not only_check)
    if code or only_check:
        sys.exit(code)
    for name in [name for name in os.environ if name.startswith("FLWR_")]:
        del os.environ[name]
    device = make_device(kit, tell, silent)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: device.supervisor.ask_to_stop())
    with device.lock:
        device.supervisor.start(60.0)
        device.supervisor.run(device.watch.look)


@click.command()
@KIT
@click.option("--sample", "samples", multiple=True, metavar="NAME", help="only this one: a file, a row or a digest")
@click.option(
    "--samples", "file", type=click.Path(path_type=Path), metavar="FILE", help="file listing sample names, one per line"
)
@click.option("--note", default="", help="a word to the operator, at most 500 characters")
@click.option("--withdraw", is_flag=True, help="drop the asks that were not sent yet, or were refused for good")
@click.option("--json", "as_json", is_flag=True, help="print JSON, and nothing else")
def leave(kit: Path, samples: tuple[str, ...], file: Path | None, note: str, withdraw: bool, as_json: bool) -> None:
    """Have the device of KIT ask, in its next reply to the server, that all it contributed be forgotten.

    For a device that cannot reach the forget service; where it can, `fedquit forget` asks at once.

    \b
    fedquit leave kit                              the device leaves: all of it
    fedquit leave kit --sample ill/scan-17.png     one sample; it keeps training on the others
    fedquit leave kit --withdraw                   withdraw what was not sent yet
    """  # noqa: D301 - click's sign that lines stay as they are
    from fedquit.client.device.local_data.sample_names import digests_of, names_in, note_contents
    from fedquit.client.device.record import opened
    from fedquit.client.requests.signed_request import LONGEST_NOTE

    if withdraw:
        if samples or file or note:
            raise InputError("--withdraw drops every ask that was not sent: give neither samples nor a note")
        _withdraw(Kit.read(kit), as_json)
        return
    if len(note) > LONGEST_NOTE:
        raise InputError(f"the note has {len(note)} characters; at most {LONGEST_NOTE} are allowed")
    opened_kit = Kit.read(kit)
    names = [*samples, *(names_in(file) if file else ())]
    digests = digests_of(opened_kit, names)
    with opened(opened_kit.path(opened_kit.record)) as record:
        note_contents(opened_kit, record, digests)
        number = record.put("sample" if names else "client", digests, note)
    if as_json:
        click.echo(
            json.dumps({"number": number, "granularity": "sample" if names else "client", "samples": len(digests)})
        )
    else:
        what = counted(len(digests), "sample") if names else "all that this device contributed"
        click.echo(f"waits for the next reply: that {what} be forgotten. fedquit record {kit} shows what became of it")


def _withdraw(kit: Kit, as_json: bool) -> None:
    """Drop the asks of a kit that can still be withdrawn; print how many were, and how many cannot be."""
    from fedquit.client.device.record.owners_turn import in_turn

    with in_turn(kit) as record:  # not while an ask is signed
        dropped, remaining = record.withdraw()
    if as_json:
        click.echo(json.dumps({"withdrawn": dropped, "sent": remaining}))
        return
    click.echo(f"{counted(dropped, 'ask')} withdrawn")
    if remaining:
        sent = f"{counted(remaining, 'ask')} already sent and not withdrawn"
        click.echo(f"{sent}: fedquit requests {kit.folder} shows what the server received")
