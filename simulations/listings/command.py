"""The commands `fedquit methods`, `objectives`, `strategies` and `codecs`: each prints a table, without PyTorch."""

import json

import click

AS_JSON = click.option("--json", "as_json", is_flag=True, help="print as JSON, and nothing else")


@click.command()
@AS_JSON
def methods(as_json: bool) -> None:
    """List the methods of forgetting and what each needs."""
    _print("methods", as_json)


@click.command()
@AS_JSON
def objectives(as_json: bool) -> None:
    """List the objectives that devices can train with, what each sends and what state it needs on the device."""
    _print("objectives", as_json)


@click.command()
@AS_JSON
def strategies(as_json: bool) -> None:
    """List the aggregation strategies and the kinds of DP: settings, state, faulty clients tolerated."""
    _print("strategies", as_json)


@click.command()
@AS_JSON
def codecs(as_json: bool) -> None:
    """List the codecs that compress models in transit: settings with defaults, direction, and what each loses."""
    _print("codecs", as_json)


def _print(kind: str, as_json: bool) -> None:
    from fedquit.simulations.listings.registries import listed

    rows = listed(kind)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    from fedquit.simulations.listings import listed_tables

    {
        "methods": listed_tables.print_methods,
        "objectives": listed_tables.print_objectives,
        "strategies": listed_tables.print_strategies,
        "codecs": listed_tables.print_codecs,
    }[kind](rows)
