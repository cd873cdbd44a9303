"""The researcher's commands: each parses, makes one call, prints."""

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import click

from fedquit.errors import InputError
from fedquit.processes.chosen_device import device_options
from fedquit.settings import Part, Settings, group_of, keys_of

Command = Callable[..., Any]


class GroupedCommand(click.Command):
    """A command whose help has the settings under the headings of their groups, and its other options after them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a section for each group; the columns of all sections are aligned."""
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in sorted(options, key=lambda option: group_of(option.name or "") is None):
            record = option.get_help_record(ctx)
            if record is not None:
                sections.setdefault(group_of(option.name or "") or "Options", []).append(record)
        width = max(len(flag) for records in sections.values() for flag, _ in records)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl([(flag.ljust(min(width, 30)), text) for flag, text in records])


def settings_options(keys: Collection[str], default: str | None = None) -> Callable[[Command], Command]:
    """Return what gives a command a flag for each of these settings; only those that are given reach it, as text.

    Args:
        keys: names of settings, in kebab-case.
        default: what to say that it is where a flag is not given, if not the settings' own.
    """

    def with_flags(command: Command) -> Command:
        for key in reversed(keys_of(*Part)):
            if key in keys:
                command = _flag(key, default)(command)
        return command

    return with_flags


def _flag(key: str, default: str | None) -> Callable[[Command], Command]:
    name = key.replace("-", "_")
    field = Settings.model_fields[name]
    if field.annotation is bool:
        return click.option(f"--{key}/--no-{key}", name, default=None, help=field.description)
    value = Settings().run_config()[key] if default is None else default
    shown = f" [{value}]" if value != "" else ""
    return click.option(f"--{key}", name, metavar=_metavar(field), help=f"{field.description}{shown}")


def _metavar(field: Any) -> str:
    choices = getattr(field.annotation, "__args__", None)
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    return {int: "N", float: "X"}.get(field.annotation, "TEXT")


@click.command(cls=GroupedCommand)
@click.argument("config", required=False, type=click.Path(path_type=Path))
@settings_options(keys_of(*Part))
@click.option("--iid", is_flag=True, help="the same as --scheme iid")
@click.option(
    "--engine",
    type=click.Choice(["inprocess", "flower"]),
    default="inprocess",
    show_default=True,
    help="what carries the messages",
)
@click.option(
    "--address", default="", metavar="HOST:PORT|auto", help="Ray cluster for --engine flower [start one here]"
)
@click.option("--workers", type=click.IntRange(min=1), help="clients at work at once [as many as cores]")
@device_options
@click.option(
    "--stack",
    default="off",
    show_default=True,
    metavar="auto|off|N",
    help="train N clients at once, their models stacked: faster where models are small; results differ by rounding",
)
@click.option("--out", type=click.Path(path_type=Path), help="folder for the results [runs/DATE-TIME]")
@click.option("--resume", is_flag=True, help="resume the run in --out")
@click.option("--overwrite", is_flag=True, help="replace the run in --out")
@click.option(
    "--start",
    type=click.Path(path_type=Path),
    help="start from the trained model of this finished run: the same start for several requests",
)
@click.option(
    "--leak", is_flag=True, help="also measure what the last request reveals to the server and to other devices"
)
@click.option(
    "--export-partition",
    type=click.Path(path_type=Path),
    help="also write samples, clients, weights and budget to this npz file, for code outside fedquit",
)
@click.option(
    "--track", default="", metavar="NAMES", help="log the run to tensorboard, mlflow or wandb; several: NAME,NAME"
)
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON, and nothing else")
def simulate(
    config: Path | None,
    iid: bool,
    engine: str,
    address: str,
    workers: int | None,
    stack: str,
    out: Path | None,
    resume: bool,
    overwrite: bool,
    start: Path | None,
    leak: bool,
    export_partition: Path | None,
    track: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Train, forget, recover, and compare with retraining.

    CONFIG is a TOML file of the settings below, without the dashes; flags win over it.

    \b
    fedquit simulate                                         real 8x8 digits, under a minute
    fedquit simulate fashion-mnist --forget 3                a config that ships; fedquit configs lists them
    fedquit simulate --forget "0;3" --method negate          client 0, and when that is done client 3
    fedquit simulate --granularity sample --forget-share 0.5 half of client 0's samples; the client stays
    fedquit simulate --granularity class --forget-class 3    a class, wherever it lies
    fedquit simulate --resume --out runs/mine                resume where it was killed
    fedquit simulate --track tensorboard                     follow it in TensorBoard (docs/trackers.md)
    """  # noqa: D301 - click's sign that lines stay as they are
    from fedquit.simulations.api.run_functions import simulate as carry_out
    from fedquit.simulations.simulate.run_tables import print_report
    from fedquit.trackers.tracking import failure_line

    flags = {name: value for name, value in given.items() if value is not None}
    if iid and flags.setdefault("scheme", "iid") != "iid":
        raise InputError("--iid and --scheme exclude each other")

    def tracker_failed(name: str, reason: str) -> None:
        click.echo(f"fedquit: {failure_line(name, reason)}", err=True)

    done = carry_out(
        config,
        engine=engine,
        address=address,
        workers=workers,
        stack=stack,
        out=out,
        resume=resume,
        overwrite=overwrite,
        start=start,
        leak=leak,
        export_partition=export_partition,
        track=track,
        progress=True,
        tracker_failed=tracker_failed,
        **flags,
    )
    _print(done.document, as_json, print_report)
    if not as_json:
        click.echo(f"Report, models and figures: {done.folder}")
    if done.refusal:
        click.echo(f"fedquit: {done.refusal}", err=True)
        click.get_current_context().exit(1)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON, and nothing else")
def report(folder: Path, as_json: bool) -> None:
    """Show the report of the finished run in FOLDER again; written again if it is missing."""
    from fedquit.simulations.api.run_functions import read_report
    from fedquit.simulations.simulate.run_tables import print_report

    _print(read_report(folder).document, as_json, print_report)


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--markdown", "as_markdown", is_flag=True, help="print as one Markdown table")
@click.option("--json", "as_json", is_flag=True, help="print as JSON, and nothing else")
def summary(folders: tuple[Path, ...], as_markdown: bool, as_json: bool) -> None:
    """Show several finished runs beside each other, with mean and standard deviation; each run counts once."""
    from fedquit.simulations.api.run_functions import read_report
    from fedquit.simulations.simulate.summary import markdown, print_summary, summarise

    once = {folder.resolve(): folder for folder in folders}  # a run that is given twice counts once
    found = summarise([read_report(folder).document for folder in once.values()])
    _print(found, as_json, (lambda found: click.echo(markdown(found))) if as_markdown else print_summary)


def _print(document: Any, as_json: bool, for_people: Callable[[Any], None]) -> None:
    if as_json:
        click.echo(json.dumps(document, indent=1))
    else:
        for_people(document)
