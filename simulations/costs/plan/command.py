"""The command `fedquit plan`: parses, makes one call, prints."""

import json
from pathlib import Path
from typing import Any

import click

from fedquit.finite_range import FiniteRange
from fedquit.settings import Part, keys_of
from fedquit.simulations.simulate.command import settings_options

TOLD = tuple(key for key in keys_of(Part.REQUEST, Part.METHOD, Part.STOP_RULE) if key != "method")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--method", default="all", show_default=True, help="a name that `fedquit methods` lists, or all")
@settings_options(TOLD, default="as RUN")
@click.option("--link", type=FiniteRange(min=0, min_open=True), metavar="MBIT/S", help="price bytes on this link")
@click.option("--energy", type=FiniteRange(min=0), metavar="J/BYTE", help="joules for a byte [0.000216]")
@click.option("--json", "as_json", is_flag=True, help="print the plan as JSON, and nothing else")
def plan(run: Path, method: str, link: float | None, energy: float | None, as_json: bool, **given: Any) -> None:
    """Estimate what a request on the model trained in RUN would cost by each method, compared with retraining.

    Nothing is sent and nothing is written. Bytes of messages are exact where they are determined; rounds of recovery
    until utility is back are not known before, so there are two sums.

    \b
    fedquit plan runs/mine --forget 3                        every method
    fedquit plan runs/mine --forget 3 --method fedquit --link 20
    fedquit plan runs/mine --granularity class --forget-class 3 --recover budget --recover-rounds 2
    """  # noqa: D301 - click's sign that lines stay as they are
    from fedquit.simulations.costs.plan.make_plan import make_plan
    from fedquit.simulations.costs.plan.plan_table import print_plan
    from fedquit.simulations.costs.price import JOULES_PER_BYTE, Price

    changed = {name: value for name, value in given.items() if value is not None}
    price = Price(link, JOULES_PER_BYTE if energy is None else energy)
    document = make_plan(run, changed, price, method=method)
    if as_json:
        click.echo(json.dumps(document, indent=1, allow_nan=False))
    else:
        print_plan(document)
