"""The command `fedquit record`: parses, makes one call, prints."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from fedquit.errors import InputError

SHOWN = 20


@click.command()
@click.argument("kit", type=click.Path(path_type=Path))
@click.option(
    "--sample", metavar="NAME", help="only the rounds that this sample was part of: a file, a row or a digest"
)
@click.option("--all", "every", is_flag=True, help="every round, not only the last ones")
@click.option(
    "--retire", metavar="ID", help="first retire the --samples of request ID, which an older copy of the record lacks"
)
@click.option(
    "--samples", "file", type=click.Path(path_type=Path), metavar="FILE", help="file listing sample names, one per line"
)
@click.option("--gone", is_flag=True, help="with --retire: no sample of that request is among the data any more")
@click.option("--json", "as_json", is_flag=True, help="print the whole record as JSON, and nothing else")
def record(
    kit: Path, sample: str | None, every: bool, retire: str | None, file: Path | None, gone: bool, as_json: bool
) -> None:
    """Show the record of the device of KIT: what it trained on, what it was asked to forget, what it retired."""
    from fedquit.client.device.record.retire_again import retire_again

    if (retire is None) != (file is None and not gone) or (gone and file is not None):
        raise InputError("--retire ID belongs with --samples FILE, or with --gone where its samples were deleted")
    if retire is not None:
        retire_again(kit, retire, file)
    document = read_document(kit, sample)
    if as_json:
        click.echo(json.dumps(document, indent=1))
    else:
        from fedquit.client.device.record.record_table import print_record

        print_record(document, rounds=None if every else SHOWN)


def read_document(folder: Path, sample: str | None = None) -> dict[str, Any]:
    """Return the record of a kit for programs: digests in hex, times in Unix seconds.

    Raises:
        InputError: it is no kit, or there is no such sample.
    """
    from fedquit.client.device.local_data.sample_names import digests_of
    from fedquit.client.device.local_data.samples_commitment import set_digest
    from fedquit.client.device.record import opened
    from fedquit.client.kit import Kit

    kit = Kit.read(folder)
    digest = digests_of(kit, [sample])[0] if sample else None
    with opened(kit.path(kit.record)) as held:
        retired, salts = held.retired(), {name: salt.hex() for name, salt in held.salts().items()}
        return {
            "device": kit.name,
            "number": kit.number,
            "federation": kit.federation,
            "rounds": [
                {**asdict(each), "salt": salts.get(each.samples_digest)} for each in held.rounds(digest)
            ],
            "requests": [
                {
                    "request": mark.request,
                    "granularity": mark.granularity,
                    "samples": [each.hex() for each in mark.digests],
                    "salt": salts.get(set_digest(mark.digests)),
                    "labels": list(mark.labels),
                    "marked_at": mark.marked_at,
                    "retired_at": mark.retired_at,
                }
                for mark in held.marks()
            ],
            "retired": [{"sample": each.hex(), "request": request} for each, request in retired.items()],
            "waiting": [
                {"number": ask.number, "granularity": ask.granularity, "samples": len(ask.digests),
                 "put_at": ask.put_at, "request": ask.request or None, "signings": ask.signings,
                 "refused": ask.refused or None}
                for ask in held.asks()
            ],
        }  # fmt: skip
