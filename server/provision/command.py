"""The command `fedquit provision`: parses, makes one call, prints."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from fedquit.errors import InputError
from fedquit.files import explained

EXAMPLE = """\
# A federation: the config of its server, and who belongs to it. `fedquit provision` makes it ready from this file,
# and again when members are added. docs/deploy.md explains every key.
name = "clinics"

[server]
host = "localhost"           # the name or address that devices reach

[training]
model = "mlp"
classes = 10
input-shape = "1x8x8"
lr = 0.1

[schedule]
every = "1h"                 # a round an hour
min-clients = 2

[forgetting]
method = "fedquit"
deadline = "30d"

[[device]]
name = "north"
data = "data.npz"            # in its kit; or a path on the device: a folder of images, an .npz or a Parquet file

[[device]]
name = "south"
data = "data.npz"

[[operator]]
name = "ada"
"""


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="folder of the federation [its name, next to CONFIG]")
@click.option("--tar", is_flag=True, help="pack each kit into NAME.tar.gz")
@click.option("--new-authority", is_flag=True, help="make a new authority; every member then needs the new ca.crt")
@click.option(
    "--renew",
    is_flag=True,
    help="renew the server's certificate now; needs authority/ca.key in the federation's folder",
)
@click.option("--example", is_flag=True, help="write an example to CONFIG, and make nothing")
@click.option("--json", "as_json", is_flag=True, help="print the members as JSON, and nothing else")
def provision(
    config: Path, out: Path | None, tar: bool, new_authority: bool, renew: bool, example: bool, as_json: bool
) -> None:
    """Make a federation ready: certificates, keys, the server's folder and a kit for each device and operator.

    \b
    fedquit provision federation.toml --example     an example to begin with
    fedquit provision federation.toml               make it; again after adding members
    """  # noqa: D301 - click's sign that lines stay as they are
    if example:
        if config.exists():
            raise InputError(f"{config} is there already; give another name for the example, or remove it")
        with explained(config), config.open("x", encoding="utf-8") as file:
            file.write(EXAMPLE)
        click.echo(f"wrote {config}; edit it, then: fedquit provision {config}", err=True)
        return
    if renew and new_authority:
        raise InputError("--renew keeps the authority and --new-authority replaces it: give one of them")
    from fedquit.server.provision.federation_plan import read_plan
    from fedquit.server.provision.provision import provision as carry_out

    plan = read_plan(config)
    out = out or config.parent / plan.federation.name
    members = carry_out(plan, out, tar=tar, new_authority=new_authority, renew_now=renew)
    if as_json:
        documents = [{**asdict(member), "kit": str(member.kit)} for member in members]
        click.echo(json.dumps({"server": str(out / "server"), "members": documents}, indent=1))
        return
    for member in members:
        state = "new" if member.new else "enrolled before"
        if member.revoked:
            click.echo(
                f"{member.role} {member.number} {member.name}: its key is revoked; it may come back by another name"
            )
            continue
        key = ", with its own key" if member.own_key else ""
        click.echo(f"{member.role} {member.number} {member.name}: {state}{key}; kit {member.kit}")
    click.echo(f"server: {out / 'server'}", err=True)
    if renew:
        from fedquit.server.page.certificate_ends import certificate_ends
        from fedquit.server.page.sentences import moment

        ends = moment(certificate_ends(out / "server")["server"])
        click.echo(f"its certificate holds until {ends}; a running server shows it within a minute", err=True)
        click.echo("Flower's SuperLink shows it once fedquit serve is started again: docs/deploy.md", err=True)
        return
    if new_authority:
        click.echo(
            f"hand {out / 'server' / 'ca.crt'} to every member, for its kit: with the old one nobody can connect",
            err=True,
        )
    click.echo(f"next: hand the kits out, put {out / 'authority'} away, check with fedquit doctor, and", err=True)
    click.echo(f"  here          fedquit serve {out / 'server'}", err=True)
    click.echo("  on a device   fedquit join KIT", err=True)
