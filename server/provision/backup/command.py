"""The commands `fedquit backup` and `fedquit restore`: each parses, makes one call, prints."""

import json
from pathlib import Path

import click

FOLDER = click.argument("folder", type=click.Path(path_type=Path))
AS_JSON = click.option("--json", "as_json", is_flag=True, help="print as one JSON document, and nothing else")


@click.command()
@FOLDER
@click.argument("to", type=click.Path(path_type=Path))
@click.option(
    "--without-authority", is_flag=True, help="leave out the authority's key, if authority/ is next to FOLDER"
)
@click.option("--without-ledger", is_flag=True, help="leave out the ledger: back it up by other means")
@AS_JSON
def backup(folder: Path, to: Path, without_authority: bool, without_ledger: bool, as_json: bool) -> None:
    """Back up the server in FOLDER into the new file TO (or into the folder TO), also while the server runs.

    The file holds private keys: whoever has it can act as this server. Only its owner can read it (mode 600).
    """
    from fedquit.server.provision.backup.make_backup import make_backup

    made = make_backup(folder, to, with_authority=not without_authority, with_ledger=not without_ledger)
    size, manifest = made.path.stat().st_size, made.manifest
    if as_json:
        found = {
            "file": str(made.path),
            "bytes": size,
            "federation": manifest.federation,
            "private": list(made.private),
            "left_out": list(made.left_out),
        }
        click.echo(json.dumps({**found, "head": f"{manifest.event}:{manifest.head}", "files": len(manifest.files)}))
        return
    click.echo(f"{made.path}: {len(manifest.files)} files, {size} bytes, the ledger up to event {manifest.event}")
    click.echo(f"private keys in it: {', '.join(made.private)}; keep it where nobody else can read it", err=True)
    for data in made.left_out:
        click.echo(f"not in the backup: {data}, which [trusted] data names outside {folder}; back it up too", err=True)
    click.echo(f"note this head elsewhere: {manifest.event}:{manifest.head}", err=True)


@click.command()
@click.argument("path", metavar="FROM", type=click.Path(path_type=Path))
@FOLDER
@click.option("--key", type=click.Path(path_type=Path), help="receipts.pub: refuse a backup that another server made")
@click.option(
    "--ledger",
    default="",
    metavar="URL",
    help="empty database to restore a PostgreSQL ledger into [as in its server.toml]",
)
@AS_JSON
def restore(path: Path, folder: Path, key: Path | None, ledger: str, as_json: bool) -> None:
    """Restore the backup FROM into the new folder FOLDER; then run `fedquit serve FOLDER`.

    Everything after the backup is lost to the server: docs/deploy.md says how that is detected.
    """
    from fedquit.server.page.sentences import moment
    from fedquit.server.provision.backup.restore_backup import restore_backup

    done = restore_backup(path, folder, key=key, ledger=ledger)
    head = f"{done.event}:{done.head}"
    if as_json:
        found = {"folder": str(done.folder), "federation": done.manifest.federation, "made_at": done.manifest.made_at}
        click.echo(json.dumps({**found, "fedquit": done.manifest.fedquit, "head": head}))
        return
    click.echo(f"{done.folder}: the federation '{done.manifest.federation}', its ledger up to event {done.event}")
    click.echo(
        f"does it have the newest event that anybody noted? fedquit ledger check {folder} --noted N:DIGEST", err=True
    )
    click.echo(
        f"or that of a receipt: fedquit ledger check {folder} --receipt FILE; then fedquit serve {folder}", err=True
    )
    since = moment(done.manifest.made_at)
    click.echo(
        f"a key that was revoked or replaced after {since} counts again: revoke it again before you serve", err=True
    )
