"""The command `fedquit compare`: parses, makes one call, prints."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click

from fedquit.errors import InputError
from fedquit.processes.chosen_device import device_options


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="folder for the results [runs/compare-DATE-TIME]")
@click.option("--jobs", type=click.IntRange(min=1), help="runs at work at once [as many as cores]")
@device_options
@click.option("--resume", is_flag=True, help="resume the comparison in --out")
@click.option("--overwrite", is_flag=True, help="replace the comparison in --out")
@click.option("--plan", "only_plan", is_flag=True, help="print the runs that it consists of, and run nothing")
@click.option("--report", "only_report", is_flag=True, help="CONFIG is a summary.json: write its report, run nothing")
@click.option("--track", default="", metavar="NAMES", help="log it to tensorboard, mlflow or wandb; several: NAME,NAME")
@click.option("--json", "as_json", is_flag=True, help="print the results as JSON, and nothing else")
def compare(
    config: Path,
    out: Path | None,
    jobs: int | None,
    resume: bool,
    overwrite: bool,
    only_plan: bool,
    only_report: bool,
    track: str,
    as_json: bool,
) -> None:
    """Compare methods of forgetting: every method on every request, with several seeds and equal budgets.

    CONFIG is a TOML file that names them, or the name of one that ships with fedquit (fedquit configs lists them).

    \b
    fedquit compare digits                                     a small one that ships, in a few minutes
    fedquit compare mine.toml --plan                           what would run
    fedquit compare mine.toml --resume --out runs/mine         resume where it was killed, or with rows, targets
                                                               or seeds that were added to the file
    fedquit compare runs/mine/summary.json --report --out new  report and figures again, from the results of the rows
    """  # noqa: D301 - click's sign that lines stay as they are
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other")
    if only_plan and only_report:
        raise InputError("--plan and --report exclude each other")
    if only_plan:
        _print_plan(config, as_json)
        return
    if only_report:
        if resume or as_json or jobs is not None:
            raise InputError("--report runs nothing: leave out --resume, --jobs and --json")
        _write_report(config, out, overwrite)
        return
    from fedquit.simulations.api.comparison_result import compare as carry_out
    from fedquit.simulations.compare.report.comparison_table import print_results
    from fedquit.trackers.tracking import failure_line

    done = carry_out(
        config,
        out=out,
        jobs=jobs,
        resume=resume,
        overwrite=overwrite,
        track=track,
        progress=True,
        tracker_failed=lambda name, reason: click.echo(f"fedquit: {failure_line(name, reason)}", err=True),
    )
    if as_json:
        click.echo(json.dumps(done.document, indent=1, allow_nan=False))
    else:
        print_results(done.document)
        click.echo(f"Report, figures and raw results: {done.folder}")
    if done.failures:
        again = f"fedquit compare {config} --resume --out {done.folder}"
        click.echo(f"fedquit: runs without a result: {len(done.failures)}; try them again: {again}", err=True)
        click.get_current_context().exit(1)


def _print_plan(config: Path, as_json: bool) -> None:
    """Print the runs, one a line, and how many there are of each kind."""
    from fedquit.simulations.compare.comparison import planned

    cells = planned(config)
    if as_json:
        click.echo(json.dumps([_shown(cell) for cell in cells], indent=1))
        return
    for cell in cells:
        click.echo(f"{cell.folder}  ({cell.row or cell.kind}, about {cell.rounds} rounds)")
    kinds = Counter(cell.kind for cell in cells)
    click.echo(
        f"{len(cells)} runs: {kinds['base']} trainings, {kinds['references']} times the models to compare with, "
        f"{kinds['row']} requests"
    )


def _write_report(summary: Path, out: Path | None, overwrite: bool) -> None:
    from fedquit.simulations.compare.report.report_files import rewrite_report

    click.echo(f"Report and figures: {rewrite_report(summary, out=out, overwrite=overwrite)}")


def _shown(cell: Any) -> dict[str, Any]:
    named = {"kind": cell.kind, "row": cell.row, "seed": cell.seed, "target": list(cell.target), "folder": cell.folder}
    return {**named, "rounds": cell.rounds, "settings": cell.settings}
