"""What a comparison is of, and how its table is read, in plain words: the report and the page say the same."""

from collections.abc import Sequence

from fedquit.simulations.compare.cells.plan_cells import row_run
from fedquit.simulations.compare.config.comparison_config import Comparison, Target


def how_to_read(comparison: Comparison) -> str:
    """Return what the numbers in the table of rows are."""
    others = "others" if comparison.references > 2 else "other"
    return (
        "Mean ± standard deviation over requests and seeds; gaps are averaged by size. The last row holds each "
        f"retrained model against the {others}: what another seed alone does."
    )


def name_target(granularity: str, target: Target) -> str:
    """Return what is forgotten, in words.

    >>> name_target("client", (0, 3)), name_target("sample", (2,)), name_target("class", (1,))
    ('clients 0 and 3 at once', 'samples of client 2', 'class 1')
    """
    one, many = ("class", "classes") if granularity == "class" else ("client", "clients")
    shown = [str(member) for member in target]
    named = f"{one} {shown[0]}" if len(shown) == 1 else f"{many} {', '.join(shown[:-1])} and {shown[-1]} at once"
    return f"samples of {named}" if granularity == "sample" else named


def what_was_compared(comparison: Comparison, targets: Sequence[Target]) -> list[str]:
    """Return what was compared, a paragraph each."""
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
        f"Data: {run.dataset}, {samples}, {run.clients} clients, split {run.scheme}{alpha} with seed "
        f"{run.split_seed}. Model: {run.model}, untrained weights of seed {run.model_seed}, {run.rounds} "
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
    return lines
