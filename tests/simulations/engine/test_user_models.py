"""Models of users: none stops a round, ends in a traceback, or makes results depend on the number of workers."""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedquit.errors import FedquitError
from fedquit.settings import Settings
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.simulations.engine.stack import stack_size
from fedquit.simulations.simulate.run_simulation import run_simulation
from tests.simulations.engine.test_summed import model_of, strategy

SMALL: dict[str, Any] = {
    "clients": 7,
    "samples": 160,
    "rounds": 2,
    "method": "continue",
    "recover": "budget",
    "recover-rounds": 1,
    "reference": "none",
}


class Linear(nn.Module):
    """A model to derive others from."""

    def __init__(self, input_shape: Any, num_classes: int) -> None:
        super().__init__()
        del input_shape
        self.linear = nn.Linear(64, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        logits: torch.Tensor = self.linear(images.flatten(1))
        return logits


class Counting(Linear):
    """A model whose output depends on how often it was called."""

    calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        self.calls += 1
        return super().forward(images) * (1 + 0.01 * self.calls)


class Raising(Linear):
    """A model that cannot be trained."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        if self.training:
            raise ValueError("no such\nlayer")
        return super().forward(images)


class Leaving(Linear):
    """A model that ends the process that trains it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        if self.training:
            sys.exit(3)
        return super().forward(images)


class Growing(Linear):
    """A model that has one entry more once it was trained."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        if self.training and "seen" not in self._buffers:
            self.register_buffer("seen", torch.zeros(1))
        return super().forward(images)


class Shrinking(Linear):
    """A model that has one entry less once it was trained, on some devices."""

    def __init__(self, input_shape: Any, num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        if self.training and len(images) % 2:
            self._buffers.pop("seen", None)
        return super().forward(images)


class Widening(Linear):
    """A model with an entry of another form once it was trained, on some devices."""

    def __init__(self, input_shape: Any, num_classes: int) -> None:
        super().__init__(input_shape, num_classes)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        if self.training and len(images) % 2:
            self.seen = torch.zeros(5, 3, dtype=torch.float64)
        return super().forward(images)


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this module importable, in workers too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def run(path: Path, model: str, stack: str, workers: int) -> Any:
    given = {**SMALL, "model": f"test_user_models:{model}"}
    return run_simulation(given, out=path, stack=stack, workers=workers)[1]["stages"]


def test_a_model_that_remembers_is_the_same_stacked_on_any_number_of_workers(tmp_path: Path) -> None:
    one, two = (run(tmp_path / str(workers), "Counting", "3", workers) for workers in (1, 2))
    assert one["recovered"]["model_sha256"] == two["recovered"]["model_sha256"]


@pytest.mark.parametrize("stack", ["off", "3"])
@pytest.mark.parametrize(("model", "says"), [("Raising", "ValueError: no such"), ("Leaving", "SystemExit: 3")])
def test_a_model_that_cannot_be_trained_is_the_error_of_each_client(
    model: str, says: str, stack: str, tmp_path: Path
) -> None:
    with pytest.raises(FedquitError, match=rf"no reply to use .*client 1: {says}") as failed:
        run(tmp_path / "run", model, stack, 1)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("model", "says"),
    [("Raising", "ValueError: no such layer"), ("Leaving", "SystemExit: 3"), ("Growing", "or it changes itself")],
)
def test_why_a_model_is_not_stacked_is_one_line(model: str, says: str) -> None:
    size, why = stack_size("3", Settings(model=f"test_user_models:{model}"))
    assert size == 1
    assert says in why
    assert "\n" not in why


@pytest.mark.parametrize("model", ["Growing", "Shrinking", "Widening"])
def test_models_of_other_forms_are_refused_and_cost_what_their_messages_would(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(clients=7, samples=160, model=f"test_user_models:{model}")
    found = []
    for summed in (True, False):
        with InProcessGrid(7, settings.run_config()) as grid:
            assert grid.can_sum(model_of(settings))
            if not summed:
                monkeypatch.setattr(InProcessGrid, "can_sum", lambda *_: False)
            heard = dict[int, str | None]()
            made = strategy(grid, settings, heard, [])
            made.parameters = frozenset({"linear.weight", "linear.bias"})
            with contextlib.suppress(FedquitError):
                made.round(1, model_of(settings), {"lr": 0.1})
        totals = {way: replace(total, device_seconds=0.0) for way, total in made.costs.totals.items()}
        found.append((heard, totals))
    assert found[0] == found[1]
    assert any(found[0][0].values())


def test_a_model_that_ends_a_stack_is_the_error_of_each_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedquit.simulations.engine.stack._fails", lambda _: "")  # as if it had only begun to
    monkeypatch.setattr(InProcessGrid, "can_sum", lambda *_: False)
    with pytest.raises(FedquitError, match=r"no reply to use .*client 1: SystemExit: 3"):
        run(tmp_path / "run", "Leaving", "3", 1)
