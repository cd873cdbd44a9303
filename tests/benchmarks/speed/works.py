"""What is timed: three federations, and the data of one with more clients than real data sets have samples for."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedquit.settings import Settings

MANY = "tests.benchmarks.speed.works:many_samples"
EACH = 5
"""Samples of a client of `many_samples`."""


@dataclass(frozen=True, slots=True)
class Work:
    """Rounds of one federation.

    Attributes:
        title: for people.
        given: its settings that differ from the defaults.
    """

    title: str
    given: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> Settings:
        """Return its settings."""
        return Settings.read(self.given, "benchmark")


WORKS = {
    "W1": Work(
        "10 clients, Fashion-MNIST 12,000, cnn",
        {"dataset": "fashion-mnist", "samples": 12000, "clients": 10, "alpha": 0.3, "model": "cnn"},
    ),
    "W3": Work("100 clients, digits, mlp", {"dataset": "digits", "clients": 100, "alpha": 0.3, "model": "mlp"}),
    "W1000": Work(
        "1,000 clients, 100 a round, Fashion-MNIST, mlp",
        {"dataset": "fashion-mnist", "clients": 1000, "fraction": 0.1, "scheme": "iid", "model": "mlp"},
    ),
}


def federation(clients: int, asked: int, rounds: int) -> dict[str, Any]:
    """Return the settings of a run of `many_samples`: training, one client forgotten by the server, no retraining."""
    return {
        "dataset": MANY,
        "samples": clients * EACH,
        "clients": clients,
        "fraction": asked / clients,
        "scheme": "iid",
        "model": "mlp",
        "rounds": rounds,
        "method": "continue",
        "recover": "budget",
        "recover-rounds": 1,
        "reference": "none",
    }


def many_samples() -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return 500,000 samples of 8x8 to train on and 500 to test: each class has a mean of its own."""
    draw = np.random.default_rng(0)
    means = draw.integers(40, 176, (10, 8, 8), dtype=np.uint8)
    labels = draw.integers(0, 10, 500_500)
    inputs = draw.integers(0, 80, (len(labels), 8, 8), dtype=np.uint8)
    inputs += means[labels]
    return inputs[:-500], labels[:-500], inputs[-500:], labels[-500:]
