"""The command `fedquit audit`: parses, makes one call, prints."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from fedquit.processes.chosen_device import device_options

SHOWN = (
    ("yeom, called members", "yeom"),
    ("SVC, called members", "svc"),
)
FURTHER = {
    "relearn": "Steps to relearn on D_f, log2(1 + steps):",
    "u_lira": "Mean log likelihood ratio of single samples:",
}


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--reference",
    "references",
    multiple=True,
    type=click.Path(path_type=Path),
    help="a model retrained without the samples; five or more, of different seeds, for a verdict; the run's if not "
    "given",
)
@click.option(
    "--run",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    help="folder of a run: gives the data, the split, and who was forgotten",
)
@click.option("--original", type=click.Path(path_type=Path), help="the model before forgetting; the run's if not given")
@click.option(
    "--control",
    type=click.Path(path_type=Path),
    help="a model that forgot nothing, for the same test: the original, trained on without the samples; the run's "
    "if not given",
)
@click.option(
    "--shadows",
    type=click.Path(path_type=Path),
    help="list that `fedquit shadows` wrote, for U-LiRA and position by shadow models",
)
@click.option(
    "--relearn-steps",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    metavar="N",
    help="give up relearning after N steps",
)
@click.option(
    "--leak", is_flag=True, help="also measure what the run's last request reveals to the server and to other devices"
)
@device_options
@click.option("--json", "as_json", is_flag=True, help="print as JSON, and nothing else")
def audit(
    model: Path,
    references: tuple[Path, ...],
    folder: Path,
    original: Path | None,
    control: Path | None,
    shadows: Path | None,
    relearn_steps: int,
    leak: bool,
    as_json: bool,
) -> None:
    """Evaluate the model file MODEL against models retrained without the samples.

    \b
    fedquit audit runs/mine/models/recovered.safetensors --run runs/mine
    """  # noqa: D301 - click's sign that lines stay as they are
    from fedquit.simulations.api.audit_result import audit as evaluate

    document = evaluate(
        model,
        folder,
        references=references,
        original=original,
        control=control,
        shadows=shadows,
        relearn_steps=relearn_steps,
        leak=leak,
    ).document
    if as_json:
        click.echo(json.dumps(document, indent=1, allow_nan=False))
    else:
        print_audit(document)


def print_audit(document: dict[str, Any]) -> None:
    """Print the model, the original and the span of the retrained ones; then what sets it apart, and the verdict."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from fedquit.simulations.simulate.leak_table import leak_lines
    from fedquit.simulations.simulate.run_tables import STAGE_ROWS, memorised_line, print_verdict

    table = Table(title=f"{escape(document['model']['file'])} ({document['samples']['forget']} samples to forget)")
    table.title_justify, models = "left", [document["model"], *filter(None, [document["original"]])]
    table.add_column("")
    for name in ("model", *["original"] * bool(document["original"]), f"{len(document['references'])} retrained"):
        table.add_column(name, justify="right")
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        *STAGE_ROWS,
        *((label, partial(_member_rate, attack)) for label, attack in SHOWN),
    ]
    for label, shown in rows:
        table.add_row(label, *map(shown, models), _span([shown(measured) for measured in document["references"]]))
    console = Console()
    console.print(table)
    for line in _lines(document):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    for line in leak_lines(document.get("leak") or {}):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    print_verdict(console, document["verdict"])
    if document["memorised"]:
        console.print(memorised_line(document["memorised"]), soft_wrap=True, highlight=False)


def _member_rate(attack: str, measured: dict[str, Any]) -> str:
    return _percent(measured["attacks"][attack]["member_rate"])


def _span(cells: Sequence[str]) -> str:
    """Return the lowest and the highest of several cells; nothing of what is no number.

    >>> _span(["20.6 %", "9.5 %"]), _span(["1.5", "1.5"]), _span(["60edb8e5", "259fb066"])
    ('9.5 to 20.6 %', '1.5', '')
    """
    try:
        low, *_, high = sorted([*cells, *cells], key=lambda cell: float(cell.removesuffix(" %")))
    except ValueError:
        return ""
    return low if low == high else f"{low.removesuffix(' %')} to {high}"


def _lines(document: dict[str, Any]) -> list[str]:
    """Return what sets the model apart from the references, a line each."""
    gaps = ", ".join(f"{name.removesuffix('_accuracy')} {100 * gap:+.1f} %" for name, gap in document["gaps"].items())
    lines = [f"Accuracy gaps to retraining: {gaps}; tug of war {document['tow']:.3f} (1 is best)"]
    for name, parts in document["distances"].items():
        found = ", ".join(
            f"{part} {_number(values['model'])} ({_number(values['references'])} between references)"
            for part, values in parts.items()
        )
        lines.append(f"{name.replace('_', ' ')}: {found}")
    if document["relearn"]:
        steps = [document["relearn"]["model"], *document["relearn"]["references"]]
        on = {key: ", ".join(_steps(s[key]) for s in steps) for key in ("on_forget", "on_retain")}
        lines.append(f"Steps to relearn (model, then references): on D_f {on['on_forget']}; on D_r {on['on_retain']}")
    if document["completeness"]:
        by_shadows = document["completeness"]["from_shadows"]
        lines.append(_complete("by retrained models", document["completeness"]))
        lines += [_complete("by shadow models that never had the sample", by_shadows)] if by_shadows else []
    if document["u_lira"]:
        shown = document["u_lira"]
        rates = "; ".join(
            f"TPR at {100 * float(fpr):g} % FPR {found['reason'] or _number(found['value'])}"
            for fpr, found in shown["tpr_at_fpr"].items()
        )
        attack = "LiRA, its shadows not made to forget," if shown["kind"] == "plain" else "U-LiRA"
        lines.append(f"{attack} on {shown['samples']} samples: AUC {shown['auc']:.3f} (0.5: as retrained); {rates}")
    for name, held in document["further_tests"].items():
        told = "like one more retrained model" if held["inside"] else "unlike one more retrained model"
        lines.append(f"{FURTHER[name]} {held['value']:.2f}, {told} ({held['low']:.2f}..{held['high']:.2f})")
    return [*lines, *(f"Not measured: {name}: {why}" for name, why in document["not_measured"].items())]


def _complete(by: str, shown: dict[str, Any]) -> str:
    among = ", ".join(_number(found["position"]) for found in shown["references"]) or "-"
    return (
        f"Completeness {by}: position {_number(shown['model']['position'])} (0: original, 1: retrained; "
        f"references {among})"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _steps(count: int | None) -> str:
    return "not reached" if count is None else str(count)
