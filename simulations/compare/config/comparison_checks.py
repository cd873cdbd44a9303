"""All that can be known before anything runs: the targets are there, the rows are possible, the data can be split."""

from collections.abc import Sequence

from fedquit.client.training.build_method import method_of
from fedquit.client.training.build_objective import check_taken_over
from fedquit.errors import InputError
from fedquit.settings import Settings
from fedquit.simulations.compare.cells.plan_cells import needs, row_run, targets_of
from fedquit.simulations.compare.config.comparison_config import Comparison, Target


def checked_targets(comparison: Comparison, *, with_data: bool = True) -> tuple[Target, ...]:
    """Check a comparison and return its targets one by one.

    Args:
        comparison: which one.
        with_data: read the data too; without, "all" classes cannot be resolved.

    Raises:
        InputError: naming the file and what is wrong with it.

    >>> from fedquit.simulations.compare.config.read_config import make_comparison
    >>> config = {"targets": "all", "seeds": [0], "settings": {"clients": 3}, "methods": {"negate": {}}}
    >>> checked_targets(make_comparison(config))
    ((0,), (1,), (2,))
    """
    example = ((0,),) if comparison.targets is None else comparison.targets
    check_rows(comparison, example)  # first, as reading the data takes long
    if not with_data:
        return targets_of(comparison)
    settings = _settings(comparison, example[0])
    try:
        from fedquit.client.data.build_data_and_model import dataset_of, initial_model
        from fedquit.server.lifecycle.training_history import Keep, check_room

        num_classes = dataset_of(settings).num_classes
        model = initial_model(settings, settings.seed_of_model)
        check_room(settings, Keep.of(*needs(comparison, example[0])), model.state_dict())
    except InputError as error:
        raise InputError(f"{comparison.source}: [settings]: {error}") from None
    targets = targets_of(comparison, num_classes)
    if comparison.granularity == "class":
        _check_classes(comparison, targets, num_classes)
    for target in targets:
        _check_target(comparison, target)
    return targets


def check_rows(comparison: Comparison, targets: Sequence[Target]) -> None:
    """Check every row's settings on every target, its method, and that the method can forget such a thing.

    Raises:
        InputError: naming the file and the row.
    """
    common = comparison.run_settings((0,), comparison.seeds[0], {}, f"{comparison.source}: [settings]")
    check_taken_over(common, f"{comparison.source}: a comparison")
    for target in targets:
        comparison.run_settings(target, comparison.seeds[0], {}, f"{comparison.source}: targets")
    for row in comparison.rows:
        where = f"{comparison.source}: [methods.{row.name}]"
        settings = row_run(comparison, comparison.seeds[0], targets[0], row, where)
        try:
            method_of(settings)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def _check_classes(comparison: Comparison, targets: Sequence[Target], num_classes: int) -> None:
    beyond = [label for target in targets for label in target if label >= num_classes]
    if beyond:
        classes = f"classes are 0..{num_classes - 1}"
        raise InputError(f"{comparison.source}: targets: there is no class {beyond[0]}; {classes}")


def _check_target(comparison: Comparison, target: Target) -> None:
    """Split the data and find what the request is about."""
    from fedquit.client.data.forget_sets import to_forget

    try:
        to_forget(_settings(comparison, target).key(), 0)
    except InputError as error:
        shown = ", ".join(map(str, target))
        raise InputError(f"{comparison.source}: target {shown}: {error}") from None


def _settings(comparison: Comparison, target: Target) -> Settings:
    return comparison.run_settings(target, comparison.seeds[0], {}, comparison.source)
