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
    """List what devices can minimise when they train, what travels for it and what they must keep."""
    _print("objectives", as_json)


@click.command()
@AS_JSON
def strategies(as_json: bool) -> None:
    """List how the models of a round become one, and what can be wrapped around: settings, state, bad clients stood."""
    _print("strategies", as_json)


@click.command()
@AS_JSON
def codecs(as_json: bool) -> None:
    """List the codecs that compress models in transit: settings with defaults, which way, and whether bit for bit."""
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
