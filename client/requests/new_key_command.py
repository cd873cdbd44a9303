"""The command `fedquit rotate`, on a member's kit: a new key, in two steps with the operator's in between."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("kit", type=click.Path(path_type=Path))
@click.option("--use", is_flag=True, help="replace the kit's old key by the new one; the server must have accepted it")
@click.option("--json", "as_json", is_flag=True, help="print as one JSON document, and nothing else")
def rotate(kit: Path, use: bool, as_json: bool) -> None:
    """Make a new key for the device or operator of KIT, to replace the old one.

    \b
    fedquit rotate KIT                                       the new key, and new-key.json for the operator
    fedquit member rotate server/ --request new-key.json     on the server: from now on only the new key is valid
    fedquit rotate KIT --use                                 the kit uses it; then restart fedquit join
    """  # noqa: D301 - click's sign that lines stay as they are
    from fedquit.client.kit import Kit
    from fedquit.client.requests.new_key import state_new_key, use_new_key

    opened = Kit.read(kit)
    if use:
        found = use_new_key(opened)
        click.echo(json.dumps({"fingerprint": found}) if as_json else f"the key of {opened.name} is {found} now")
        if not as_json:
            click.echo(f"start fedquit join {kit} again", err=True)
        return
    path = state_new_key(opened)
    if as_json:
        click.echo(json.dumps({"statement": str(path)}))
        return
    click.echo(f"{path}: hand it to the operator, who does: fedquit member rotate SERVER --request {path.name}")
    click.echo(f"then: fedquit rotate {kit} --use", err=True)
