"""The command `fedquit costs`: parses, makes one call, prints."""

import json
from pathlib import Path

import click

from fedquit.errors import InputError
from fedquit.finite_range import FiniteRange


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--link", type=FiniteRange(min=0, min_open=True), metavar="MBIT/S", help="price bytes on this link")
@click.option("--energy", type=FiniteRange(min=0), metavar="J/BYTE", help="joules for a byte [0.000216]")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), metavar="FILE", help="write every row as CSV")
@click.option("--parquet", type=click.Path(path_type=Path), metavar="FILE", help="write every row as Parquet")
@click.option(
    "--figures",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="folder for the figures [RUN; of a deployment, none]",
)
@click.option("--prometheus", "as_prometheus", is_flag=True, help="print the sums as Prometheus text, and nothing else")
@click.option("--json", "as_json", is_flag=True, help="print the costs as JSON, and nothing else")
def costs(
    run: Path,
    link: float | None,
    energy: float | None,
    csv_file: Path | None,
    parquet: Path | None,
    figures: Path | None,
    as_prometheus: bool,
    as_json: bool,
) -> None:
    """Show what the run in RUN cost: bytes, seconds and energy of every phase, compared with retraining.

    RUN is the folder of a simulated run, or of a deployed server. It may be asked while that is at work.

    \b
    fedquit costs clinics/server                     what a deployment cost so far, and each request
    fedquit costs runs/mine --link 20                what it would take on links of 20 Mbit/s
    fedquit costs runs/mine --csv rows.csv           a row for every message
    fedquit costs runs/mine --prometheus > /var/lib/node_exporter/fedquit.prom
    """  # noqa: D301 - click's sign that lines stay as they are
    from fedquit.server.run.run_folder import costs_file
    from fedquit.simulations.costs import exports
    from fedquit.simulations.costs.cost_document import CostSource, cost_document
    from fedquit.simulations.costs.deployment_costs import DeploymentCosts, is_deployment
    from fedquit.simulations.costs.price import JOULES_PER_BYTE, Price
    from fedquit.simulations.costs.run_costs import RunCosts

    if as_json and as_prometheus:
        raise InputError("--json and --prometheus exclude each other")
    source: CostSource = DeploymentCosts(run) if is_deployment(run) else RunCosts(run)
    document = cost_document(source, Price(link, JOULES_PER_BYTE if energy is None else energy))
    for file, write in ((csv_file, exports.write_csv), (parquet, exports.write_parquet)):
        if file is not None:
            if file.resolve() == costs_file(run).resolve():
                raise InputError(f"{file} is the cost log itself; give another file")
            write(file, document["run"], source.rows())
            click.echo(f"Rows: {file}", err=True)
    if as_json:
        click.echo(json.dumps(document, indent=1, allow_nan=False))
    elif as_prometheus:
        click.echo(exports.prometheus(document["run"], document["phases"]), nl=False)
    else:
        from fedquit.simulations.costs.cost_figures import draw_all
        from fedquit.simulations.costs.cost_table import print_costs

        print_costs(document)
        if figures or not is_deployment(run):  # a server's folder is for the server
            click.echo(f"Figures: {', '.join(map(str, draw_all(figures or run, document)))}")
