"""The command `fedquit doctor`: is this device, or this server, ready to start?"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from fedquit.client.kit import FILE as KIT_FILE
from fedquit.errors import InputError
from fedquit.server.federation import FILE


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print the findings as JSON, and nothing else")
def doctor(folder: Path, as_json: bool) -> None:
    """Check the device whose kit is in FOLDER, or the server in FOLDER, before it starts; change nothing.

    Exits with 0 if nothing is wrong.
    """
    if (folder / KIT_FILE).is_file():
        from fedquit.client.device.device_checks import device_checks  # which reads samples, with torch

        found = list(device_checks(folder))
    elif (folder / FILE).is_file():
        from fedquit.server.provision.doctor import checks_of_server

        found = list(checks_of_server(folder))
    else:
        raise InputError(f"{folder} is neither a kit (it has no {KIT_FILE}) nor a server's folder (no {FILE})")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=1))
    else:
        for finding in found:
            click.echo(f"{finding.state:8} {finding.name}: {finding.text}")
    sys.exit(max((finding.code for finding in found if finding.state == "wrong"), default=0))
