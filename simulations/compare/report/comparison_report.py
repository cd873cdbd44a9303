"""report.md: what was compared in plain words, the table, the figures, and the command that repeats each run.

Every number and every name in it comes from the results; nothing is said about winners but who is on the Pareto front.
"""

import shlex
from collections.abc import Mapping, Sequence

from fedquit.documents import Document
from fedquit.simulations.compare.cells.plan_cells import row_run
from fedquit.simulations.compare.cells.repeat_command import simulate_command
from fedquit.simulations.compare.config.comparison_config import Comparison, Row, Target
from fedquit.simulations.compare.report.columns import columns_of
from fedquit.simulations.compare.report.comparison_table import escaped, markdown


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
        _what(comparison, targets),
        markdown(rows),
        "\n".join([_how_to_read(comparison), *(f"- **{c.heading}**: {c.meaning}" for c in columns_of(rows))]),
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


def name_target(granularity: str, target: Target) -> str:
    """Return what is forgotten, in words.

    >>> name_target("client", (0, 3)), name_target("sample", (2,)), name_target("class", (1,))
    ('clients 0 and 3 at once', 'samples of client 2', 'class 1')
    """
    one, many = ("class", "classes") if granularity == "class" else ("client", "clients")
    shown = [str(member) for member in target]
    named = f"{one} {shown[0]}" if len(shown) == 1 else f"{many} {', '.join(shown[:-1])} and {shown[-1]} at once"
    return f"samples of {named}" if granularity == "sample" else named


def _what(comparison: Comparison, targets: Sequence[Target]) -> str:
    """Say what was compared."""
    run = row_run(comparison, comparison.seeds[0], targets[0], comparison.rows[0])
    granularity, seeds = comparison.granularity, comparison.seeds
    samples = f"{run.samples} training samples" if run.samples else "all training samples"
    alpha = f" ({run.alpha:g})" if run.scheme == "dirichlet" else ""
    share = f" ({100 * run.forget_share:g} % of them)" if granularity == "sample" and not run.forget_samples else ""
    lines = [
        f"Ways of forgetting: {len(comparison.rows)}, each asked by itself to forget "
        f"{'; '.join(name_target(granularity, target) for target in targets)}{share}; "
        f"training seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}; "
        f"{len(targets) * len(seeds)} runs a row.",
        f"Data: {escaped(run.dataset)}, {samples}, {run.clients} clients, split {run.scheme}{alpha} with seed "
        f"{run.split_seed}. Model: {escaped(run.model)}, untrained weights of seed {run.model_seed}, {run.rounds} "
        f"rounds of training.",
        "Split and untrained model are the same throughout; with the same seed, all rows start from the same trained "
        f"model. Each request is compared with {comparison.references} "
        f"model{'' if comparison.references == 1 else 's'} retrained without the samples.",
    ]
    if comparison.budget:
        lines.append(
            f"Budget: {comparison.budget} ordinary rounds. Recovery takes no more than that unless the file says "
            "otherwise; what it leaves of their bytes, forgetting counted, is spent on further rounds."
        )
    return "\n".join(lines)


def _how_to_read(comparison: Comparison) -> str:
    others = "others" if comparison.references > 2 else "other"
    return (
        "Mean ± standard deviation over requests and seeds; gaps are averaged by size. The last row holds each "
        f"retrained model against the {others}: what another seed alone does.\n"
    )


def _paired(document: Document) -> list[str]:
    """Return the table of the differences to the first row; earlier versions' results have none."""
    found = document.get("paired")
    if not found or not any(any(row.values()) for row in found["rows"].values()):
        return []
    lines = [
        f"How much further from retraining than **{escaped(found['first'])}** each row ends on the same requests and "
        f"seeds (below 0: nearer), and the p-value of a {found['test']}:\n",
        "| method | forget gap, points | position | test gap, points |\n|---|---|---|---|",
    ]
    scales = {"forget_gap": (100, 1), "position": (1, 2), "test_gap": (100, 1)}
    for name, row in found["rows"].items():
        cells = [_difference(row[measure], *scale) for measure, scale in scales.items()]
        lines.append(f"| {escaped(name)} | {' | '.join(cells)} |")
    return ["\n".join(lines)]


def _difference(found: Document | None, scale: float, digits: int) -> str:
    """Return a paired difference for people.

    >>> _difference({"mean": 0.123, "p": 0.0004, "n": 5}, 100, 1), _difference(None, 1, 2)
    ('+12.3 (p < 0.001)', '')
    """
    if found is None:
        return ""
    p = found["p"]
    sure = "" if p is None else " (p < 0.001)" if p < 0.001 else f" (p = {p:.3f})"
    return f"{scale * found['mean']:+.{digits}f}{sure}"


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
    commands = [
        simulate_command(row_run(comparison, seed, target, row, reference="retrain"))
        for seed in comparison.seeds
        for target in targets
    ]
    lines = "\n".join(commands)
    return f"<details><summary>{escaped(row.name)}</summary>\n\n```sh\n{lines}\n```\n\n</details>"


def _made_with(versions: Mapping[str, str]) -> str:
    return f"Made with {', '.join(f'{name} {version}' for name, version in versions.items())}." if versions else ""
