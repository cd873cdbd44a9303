"""The runs that a comparison consists of, each with its folder, in the order in which they can be carried out.

For each seed one training that all requests and rows start from, for each request its retrained models, and then every
row on that request. Nothing here runs anything or reads data.

    seed-0/base/                     training
    seed-0/target-3/references/      models retrained without client 3
    seed-0/target-3/fedquit/         row "fedquit" on that request
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedquit.client.training.build_method import method_of
from fedquit.errors import InputError
from fedquit.settings import Settings
from fedquit.simulations.compare.config.comparison_config import ROW_KEYS, Comparison, Row, Target, row_settings
from fedquit.unlearning.methods.base import Traits


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a comparison.

    Attributes:
        kind: what it is for.
        seed: of training.
        target: what is forgotten; empty for a base.
        row: name of the row; "" for a base and for references.
        settings: of the run.
        phases: the phases to carry out; None for all.
        keep: what the rows' methods need of training.
        rounds: roughly how many it takes, to estimate time by.
    """

    kind: Literal["base", "references", "row"]
    seed: int
    target: Target
    row: str
    folder: str
    settings: dict[str, Any]
    phases: frozenset[str] | None
    keep: tuple[Traits, ...]
    rounds: int

    @property
    def base(self) -> str | None:
        """The folder of the training that it starts from; None for a base."""
        return None if self.kind == "base" else f"seed-{self.seed}/base"


def plan(comparison: Comparison, targets: Sequence[Target]) -> list[Cell]:
    """Return the runs of a comparison: the bases, then for each seed and target the references and the rows.

    >>> from fedquit.simulations.compare.config.read_config import make_comparison
    >>> config = make_comparison({"targets": [3], "seeds": [0], "methods": {"negate": {}}})
    >>> [cell.folder for cell in plan(config, [(3,)])]
    ['seed-0/base', 'seed-0/target-3/references', 'seed-0/target-3/negate']
    """
    bases = [_base(comparison, seed, targets[0]) for seed in comparison.seeds]
    requests = [(seed, target) for seed in comparison.seeds for target in targets]
    after = [
        cell
        for seed, target in requests
        for cell in (
            _references(comparison, seed, target),
            *(_row(comparison, seed, target, row) for row in comparison.rows),
        )
    ]
    return bases + after


def targets_of(comparison: Comparison, num_classes: int | None = None) -> tuple[Target, ...]:
    """Return the targets one by one, where the file says "all" too.

    Args:
        comparison: which one.
        num_classes: of the data, needed for "all" classes.

    >>> from fedquit.simulations.compare.config.read_config import make_comparison
    >>> targets_of(make_comparison({"targets": "all", "seeds": [0], "methods": {"negate": {}}}))
    ((0,), (1,), (2,), (3,), (4,))
    """
    if comparison.targets is not None:
        return comparison.targets
    if comparison.granularity != "class":
        source = f"{comparison.source}: [settings]"
        clients = comparison.run_settings((0,), comparison.seeds[0], {}, source).clients
        return tuple((client,) for client in range(clients))
    if num_classes is None:
        raise InputError(
            f'{comparison.source}: targets = "all" takes the classes from the data, which is not read here'
        )
    return tuple((label,) for label in range(num_classes))


def needs(comparison: Comparison, target: Target) -> list[Traits]:
    """Return what the rows' methods need, such as what training must keep for them.

    >>> from fedquit.simulations.compare.config.read_config import make_comparison
    >>> config = make_comparison({"targets": [3], "seeds": [0], "methods": {"federaser": {}}})
    >>> [traits.history for traits in needs(config, (3,))]
    ['every']
    """
    runs = [row_run(comparison, comparison.seeds[0], target, row) for row in comparison.rows]
    return [method_of(run).needs() for run in runs]


def replaying_rows(comparison: Comparison) -> list[str]:
    """Return the rows whose methods replay what training kept.

    >>> from fedquit.simulations.compare.config.read_config import make_comparison
    >>> config = make_comparison({"targets": [3], "seeds": [0], "methods": {"federaser": {}, "negate": {}}})
    >>> replaying_rows(config)
    ['federaser']
    """
    example = comparison.targets[0] if comparison.targets else (0,)
    each = zip(comparison.rows, needs(comparison, example), strict=True)
    return [row.name for row, traits in each if traits.history in ("last", "every")]


def row_run(
    comparison: Comparison, seed: int, target: Target, row: Row, source: str = "settings", reference: str = "none"
) -> Settings:
    """Return the settings of a row's run on one target.

    With a budget recovery takes no more rounds than it has, unless the file says so itself.
    """
    most = {"recover-rounds": comparison.budget} if comparison.budget else {}
    own = {
        **most,
        **{key: value for key, value in comparison.settings.items() if key in most},
        **row_settings(row),
        "budget": comparison.budget,
        "reference": reference,
        "references": comparison.references,
    }
    return comparison.run_settings(target, seed, own, source)


def _base(comparison: Comparison, seed: int, target: Target) -> Cell:
    keep = tuple(needs(comparison, target))
    settings = _without_row(comparison, seed, target, reference="none")
    return Cell("base", seed, (), "", f"seed-{seed}/base", settings, frozenset({"train"}), keep, _rounds(comparison))


def _references(comparison: Comparison, seed: int, target: Target) -> Cell:
    settings = _without_row(comparison, seed, target, reference="retrain")
    numbers = ("", *(f"-{number}" for number in range(1, comparison.references)))
    phases = {"train", "control", *(f"{phase}{number}" for phase in ("retrain", "match") for number in numbers)}
    most = _most_recovery(comparison)
    settings |= {"recover-rounds": most}  # so far the references and the control are trained on
    rounds = comparison.references * (_rounds(comparison) + most) + most
    folder = f"{_folder(seed, target)}/references"
    return Cell("references", seed, target, "", folder, settings, frozenset(phases), (), rounds)


def _row(comparison: Comparison, seed: int, target: Target, row: Row) -> Cell:
    settings = row_run(comparison, seed, target, row).run_config()
    rounds = comparison.budget or min(int(settings["recover-rounds"]), _rounds(comparison))
    folder = f"{_folder(seed, target)}/{row.slug}"
    return Cell("row", seed, target, row.name, folder, settings, None, (), rounds)


def _most_recovery(comparison: Comparison) -> int:
    """Return the most rounds that a row's recovery may take."""
    example, seed = comparison.targets[0] if comparison.targets else (0,), comparison.seeds[0]
    return max(row_run(comparison, seed, example, row).recover_rounds for row in comparison.rows)


def _without_row(comparison: Comparison, seed: int, target: Target, *, reference: str) -> dict[str, Any]:
    """Return the settings of a run in which no method has a part: what rows may set stays at its default."""
    default = {key: value for key, value in Settings().run_config().items() if key in ROW_KEYS}
    own = {**default, "method": "continue", "reference": reference, "references": comparison.references}
    return comparison.run_settings(target, seed, own).run_config()


def _rounds(comparison: Comparison) -> int:
    return int(comparison.settings.get("rounds", Settings().rounds))


def _folder(seed: int, target: Target) -> str:
    return f"seed-{seed}/target-{'-'.join(map(str, target))}"
