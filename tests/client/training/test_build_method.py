"""A method as a run carries it out: what its own settings leave open is as in the run's ordinary rounds."""

from pathlib import Path
from typing import Any

import pytest

from fedquit import RunResult, simulate
from fedquit.client.training.build_method import method_of, options_of
from fedquit.settings import Settings
from fedquit.unlearning import METHODS, Orthogonal, make_method

RUN: dict[str, Any] = {
    "dataset": "digits", "model": "mlp", "clients": 3, "rounds": 2, "local-epochs": 2, "batch-size": 50,
    "method": "orthogonal", "guard": "adopt", "reference": "none", "recover": "budget", "recover-rounds": 1,
}  # fmt: skip


def test_a_setting_that_a_method_leaves_open_is_that_of_the_run() -> None:
    run = Settings(method="orthogonal", local_epochs=3, batch_size=7)
    assert method_of(run) == Orthogonal(epochs=3, batch_size=7)
    own = Settings(method="orthogonal", local_epochs=3, batch_size=7, method_settings={"epochs": 1, "batch_size": 9})
    assert method_of(own) == Orthogonal(epochs=1, batch_size=9)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"orthogonal"}))
def test_a_method_that_leaves_nothing_open_is_the_same_in_every_run(name: str) -> None:
    assert make_method(name).as_in_run(epochs=5, batch_size=3) == make_method(name)
    run = Settings(method=name, local_epochs=5, batch_size=3)
    assert options_of(run) == run.method_options()


def test_orthogonal_unlearns_with_the_epochs_and_batches_of_training(tmp_path: Path) -> None:
    def run(name: str, start: RunResult | None = None, **settings: int) -> RunResult:
        given = {**RUN, "method-settings": {"rounds": 1, **settings}}
        return simulate(given, out=tmp_path / name, workers=1, start=start)

    as_trained = run("as-trained")
    spelled_out = run("spelled-out", as_trained, epochs=2, batch_size=50)
    once = run("once", as_trained, epochs=1, batch_size=50)
    unlearned = [each.model("unlearned").read_bytes() for each in (as_trained, spelled_out, once)]
    assert unlearned[0] == unlearned[1] != unlearned[2]
    assert as_trained.phases["forget"].bytes_up == once.phases["forget"].bytes_up, "as many models travel"
