"""report.md: what was compared in plain words, the table, the figures, and the command that repeats each run.

Every number and every name in it comes from the results; nothing is said about winners but who is on the Pareto front.
"""

import shlex
from collections.abc import Mapping, Sequence

from fedquit.documents import Document
from fedquit.simulations.compare.cells.repeat_command import repeat_command
from fedquit.simulations.compare.config.comparison_config import Comparison, Row, Target
from fedquit.simulations.compare.report.columns import columns_of
from fedquit.simulations.compare.report.comparison_table import escaped, markdown
from fedquit.simulations.compare.report.describe_comparison import how_to_read, what_was_compared
from fedquit.simulations.compare.report.paired_table import PAIRED, paired_caption, paired_rows
from fedquit.simulations.compare.results.results_document import note_of_rule


def make_report(comparison: Comparison, document: Document, figures: Mapping[str, str]) -> str:
    """Return the report as Markdown.

    Args:
        comparison: what was compared.
        document: its results, or their summary.
        figures: what each file beside the report shows.
    """
    rows = [*document["rows"], document["reference"]]
    targets = [tuple(target) for target in document["targets"]]
    parts = [
        f"# {escaped(comparison.title)}",
        "\n".join(map(escaped, what_was_compared(comparison, targets))),
        markdown(rows),
        "\n".join([how_to_read(comparison) + "\n", *(f"- **{c.heading}**: {c.meaning}" for c in columns_of(rows))]),
        note_of_rule(document),
        *_fronts(document),
        *_paired(document),
        *(f"![{title}]({name})" for name, title in figures.items()),
        *_failed(document),
        "Results of each row: [summary.json](summary.json). `fedquit compare summary.json --report` makes this "
        "report and its figures again. The results of each run are in `compare.json` in the folder of the comparison.",
        "## Repeat it",
        f"All of it:\n\n```sh\n{shlex.join(['fedquit', 'compare', comparison.source])}\n```",
        "One request of one row, by itself (it trains again, and retrains the models to compare with):",
        *(_commands(comparison, row, targets) for row in comparison.rows),
        _made_with(document["versions"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _paired(document: Document) -> list[str]:
    rows = paired_rows(document)
    if not rows:
        return []
    lines = [
        f"{paired_caption(document, escaped)}:\n",
        f"| {' | '.join(PAIRED)} |\n|---|---|---|---|",
        *(f"| {escaped(name)} | {' | '.join(cells)} |" for name, *cells in rows),
    ]
    return ["\n".join(lines)]


def _fronts(document: Document) -> list[str]:
    return [
        f"On the Pareto front of forget gap against {cost}: {', '.join(map(escaped, names))}."
        for cost, names in document["pareto_front"].items()
        if names
    ]


def _failed(document: Document) -> list[str]:
    reasons = "\n".join(f"- {escaped(reason)}" for reason in document["failures"])
    return ["## What failed", reasons] if reasons else []


def _commands(comparison: Comparison, row: Row, targets: Sequence[Target]) -> str:
    commands = [repeat_command(comparison, row, seed, target) for seed in comparison.seeds for target in targets]
    lines = "\n".join(commands)
    return f"<details><summary>{escaped(row.name)}</summary>\n\n```sh\n{lines}\n```\n\n</details>"


def _made_with(versions: Mapping[str, str]) -> str:
    return f"Made with {', '.join(f'{name} {version}' for name, version in versions.items())}." if versions else ""
