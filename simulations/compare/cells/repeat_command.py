"""The command that repeats a run: every setting that differs from its default, and always whom, how and the seeds."""

import shlex

from fedquit.settings import Scalar, Settings
from fedquit.simulations.compare.cells.plan_cells import row_run
from fedquit.simulations.compare.config.comparison_config import Comparison, Row, Target

ALWAYS = ("method", "seed", "split-seed", "model-seed")


def repeat_command(comparison: Comparison, row: Row, seed: int, target: Target) -> str:
    """Return the command that repeats a row's run on one request by itself: it trains, and retrains, again."""
    return simulate_command(row_run(comparison, seed, target, row, reference="retrain"))


def simulate_command(settings: Settings) -> str:
    """Return the `fedquit simulate` that a run with these settings is.

    >>> simulate_command(Settings(lr=0.2, forget="0,3", method="negate", split_seed=0, model_seed=0))
    'fedquit simulate --lr 0.2 --forget 0,3 --method negate --seed 0 --split-seed 0 --model-seed 0'
    """
    default = Settings().run_config()
    always = {*ALWAYS, "forget-class" if settings.granularity == "class" else "forget"}
    given = {key: value for key, value in settings.run_config().items() if key in always or value != default[key]}
    return " ".join(["fedquit simulate", *(_flag(key, value) for key, value in given.items())])


def _flag(key: str, value: Scalar) -> str:
    if isinstance(value, bool):
        return f"--{key}" if value else f"--no-{key}"
    return f"--{key} {shlex.quote(str(value))}"
