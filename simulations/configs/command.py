"""The command `fedquit configs`: parses, makes one call, prints."""

import json

import click
from rich.console import Console
from rich.table import Table

from fedquit.errors import InputError, unknown
from fedquit.simulations.configs.shipped_configs import ShippedConfig, shipped_configs


@click.command()
@click.argument("command", required=False)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="print as JSON, and nothing else")
def configs(command: str | None, name: str | None, as_json: bool) -> None:
    """List the configs that ship with fedquit, or print one, to be copied and edited.

    \b
    fedquit configs                                  every config, and the command that it is for
    fedquit configs compare samples-10 > mine.toml   a copy; then fedquit compare mine.toml
    """  # noqa: D301 - click's sign that lines stay as they are
    every = shipped_configs()
    if command is None:
        _print_all(every, as_json)
        return
    config = _one_of(every, command, name)
    text = config.path.read_text(encoding="utf-8")
    click.echo(json.dumps({**_document(config), "text": text}, indent=1) if as_json else text, nl=as_json)


def _one_of(every: list[ShippedConfig], command: str, name: str | None) -> ShippedConfig:
    """Return the config of that command and name."""
    commands = list(dict.fromkeys(config.command for config in every))
    if command not in commands:
        raise unknown("command with configs", command, commands)
    known = {config.name: config for config in every if config.command == command}
    if name is None:
        raise InputError(f"name the config to print: fedquit configs {command} {'|'.join(known)}")
    if name not in known:
        raise unknown("config", name, known)
    return known[name]


def _document(config: ShippedConfig) -> dict[str, str]:
    return {"command": config.command, "name": config.name, "about": config.about, "path": str(config.path)}


def _print_all(every: list[ShippedConfig], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([_document(config) for config in every], indent=1))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("config", no_wrap=True)
    table.add_column("what it is")
    for config in every:
        table.add_row(f"{config.command} {config.name}", config.about)
    Console().print(table)
