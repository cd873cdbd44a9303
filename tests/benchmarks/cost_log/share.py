"""Measure what share of a run's time the account takes, in that run itself.

    python -m tests.benchmarks.cost_log.share [--repeat 5] [--whole] [--json] [SETTING=VALUE ...]

A run trains in one process, so that devices, server and account share one clock. The time of every call that accounts
is added up and divided by that of the training rounds as a whole, or with `--whole` by that of the run from settings
to report: as processor time, and by the clock on the wall, where flushing to the disk counts. Settings are those of
`fedquit simulate`; the median of several runs is told.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from fedquit.errors import InputError
from fedquit.simulations.simulate.run_simulation import run_simulation
from fedquit.strategies.cost_log.cost_log import Costs
from fedquit.strategies.grid.metered_grid import MeteredGrid

CALLS = ((MeteredGrid, "_log_requests"), (MeteredGrid, "_log_reply"), (Costs, "settle"), (Costs, "sync"))
CLOCKS: Mapping[str, Callable[[], float]] = {"processor": time.process_time, "wall": time.perf_counter}


class Watch:
    """What the account has taken, and what has passed since `begin`, by each clock."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(CLOCKS, 0.0)
        self.passed = dict.fromkeys(CLOCKS, 0.0)
        self._began: dict[str, float] = {}
        self._inside = False

    def begin(self) -> None:
        """Count from now."""
        self.spent = dict.fromkeys(CLOCKS, 0.0)
        self._began = {name: clock() for name, clock in CLOCKS.items()}

    def end(self) -> None:
        """Count no further."""
        self.passed = {name: clock() - self._began[name] for name, clock in CLOCKS.items()}

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call`, its time counted; a call within a call is counted once."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return call(*args, **kwargs)
            self._inside, began = True, {name: clock() for name, clock in CLOCKS.items()}
            try:
                return call(*args, **kwargs)
            finally:
                self._inside = False
                for name, clock in CLOCKS.items():
                    self.spent[name] += clock() - began[name]

        return counted

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time the calls that account, for as long as this lasts."""
        originals = [(owner, name, getattr(owner, name)) for owner, name in CALLS]
        try:
            for owner, name, call in originals:
                setattr(owner, name, self.timed(call))
            yield
        finally:
            for owner, name, call in originals:
                setattr(owner, name, call)


def shares_of(given: Mapping[str, Any], *, whole: bool = False) -> dict[str, float]:
    """Run once with these settings, and return the account's share of the time, 0..1, and the seconds it all took.

    Args:
        given: settings of `fedquit simulate`.
        whole: of the time of the run, from reading its settings to its report, not of its training rounds alone.
    """
    watch = Watch()

    def listen(event: Mapping[str, Any]) -> None:
        if event["event"] == "phase":
            watch.begin()
        elif event["event"] == "phase-end":
            watch.end()

    with tempfile.TemporaryDirectory() as folder, watch.watching():
        out = Path(folder) / "run"
        if whole:
            watch.begin()
            run_simulation(given, workers=1, out=out)
            watch.end()
        else:
            run_simulation({"reference": "none", **given}, workers=1, out=out, listener=listen, only=["train"])
    shares = {f"{name}_share": watch.spent[name] / watch.passed[name] for name in CLOCKS}
    return {**shares, **{f"{name}_seconds": watch.passed[name] for name in CLOCKS}}


@click.command()
@click.argument("given", nargs=-1, metavar="[SETTING=VALUE]...")
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--whole", is_flag=True, help="of the whole run, not of its training rounds")
@click.option("--json", "as_json", is_flag=True, help="print as JSON")
def main(given: Sequence[str], repeat: int, whole: bool, as_json: bool) -> None:
    """Measure the account's share of the time of a run, or of its training rounds."""
    torch.set_num_threads(1)
    if wrong := next((part for part in given if "=" not in part), None):
        raise InputError(f"'{wrong}' is not SETTING=VALUE")
    settings = dict(part.split("=", 1) for part in given)
    runs = [shares_of(settings, whole=whole) for _ in range(repeat)]
    found = {name: median(run[name] for run in runs) for name in runs[0]}
    if as_json:
        print(json.dumps({"settings": settings, "whole": whole, "repeat": repeat, "load": os.getloadavg()[0], **found}))
        return
    shown = [f"{100 * found[f'{name}_share']:.2f} % of {found[f'{name}_seconds']:.1f} s ({name})" for name in CLOCKS]
    print(f"{' '.join(given) or 'defaults'}: {', '.join(shown)}")


if __name__ == "__main__":
    main()
