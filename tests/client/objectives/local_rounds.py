"""One local round of an objective on a small model."""

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from fedquit.client.objectives import (
    Done,
    LocalRound,
    make_objective,
)
from fedquit.client.training.sgd import deterministic
from fedquit.unlearning.samples import Samples

FEATURES, CLASSES = 5, 4


ROUND = LocalRound(seed=3, lr=0.1, epochs=2, batch_size=6, momentum=0.5, weight_decay=0.01)


pairs = st.tuples(st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 30.0]), st.integers(2, 6), st.integers(1, 5))


def drawn(seed: int, size: float, classes: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return student's and teacher's logits and labels, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(batch, classes, generator=generator, dtype=torch.float64) * size for _ in range(2))
    return student, teacher, torch.randint(classes, (batch,), generator=generator)


def samples(size: int = 20) -> Samples:
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, CLASSES, (size,), generator=generator)
    return Samples(torch.randn(size, FEATURES, generator=generator), labels)


def net(seed: int = 0) -> nn.Sequential:
    """Return a net with what a teacher could be changed by: batch normalisation and dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, CLASSES)
        )


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def trained(name: str, local_round: LocalRound = ROUND, **own: Any) -> tuple[dict[str, Tensor], Done]:
    model = net()
    with deterministic(7):
        done = make_objective(name, **own).train(model, samples(), local_round)
    return state(model), done


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def local_round(**changed: Any) -> LocalRound:
    return LocalRound(**{**{name: getattr(ROUND, name) for name in ROUND.__dataclass_fields__}, **changed})
