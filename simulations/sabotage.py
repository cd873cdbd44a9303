"""Which models the guard of forgetting lets through, and which it stops: honest FedQUIT beside sabotage, on digits.

make guard > guard.md
"""

import copy
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import click
import torch
from torch import Tensor, nn

from fedquit.client.settings import Settings
from fedquit.client.share import dataset_of, initial_model, split
from fedquit.client.training import deterministic, evaluate, fit
from fedquit.strategies.guard.step_checks import Accuracy, Decision, Recent, accuracy_findings, decide, step_findings
from fedquit.unlearning.arithmetic import StateDict, StateMean, difference, moved, norm, parameter_names
from fedquit.unlearning.fedquit import FedQUIT
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.seeds import derive_seed

SEED = 5
WATCHED = 5
"""Rounds that the guard compares with."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A federation on digits, and the FedQUIT that its devices are told to run."""

    model: str
    scheme: str
    clients: int
    lr: float
    alpha: float = 0.3
    rounds: int = 12

    def __str__(self) -> str:
        spread = "IID" if self.scheme == "iid" else f"Dirichlet {self.alpha}"
        return f"{self.model}, {self.clients} devices, {spread}, FedQUIT lr {self.lr:g}"


SETTINGS = (
    Setting("mlp", "dirichlet", 5, 1e-4),
    Setting("mlp", "iid", 5, 1e-3),
    Setting("cnn", "dirichlet", 5, 1e-4, alpha=0.1),
    Setting("cnn", "iid", 5, 1e-3),
    Setting("cnn", "dirichlet", 10, 1e-4),
)


@dataclass
class Trained:
    """A federation after its rounds of training.

    Attributes:
        model: the global one.
        shares: each device's samples.
        trusted: samples that the server might hold.
        recent: what the last rounds showed.
    """

    setting: Setting
    model: nn.Module
    shares: list[Samples]
    trusted: Samples
    recent: Recent
    names: frozenset[str]
    lr: float
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> dict[str, Tensor]:
        """The global model's entries."""
        return dict(self.model.state_dict())

    @property
    def method(self) -> FedQUIT:
        """What devices are told to run."""
        return FedQUIT(lr=self.setting.lr)

    def with_state(self, state: StateDict) -> nn.Module:
        """Return a model of these entries."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(dict(state))
        return model

    def honest(self, device: int) -> dict[str, Tensor]:
        """Return what a device hands back that does what it is told."""
        model = copy.deepcopy(self.model)
        with deterministic(SEED):
            self.method.forget(model, self.shares[device], seed=SEED)
        return dict(model.state_dict())

    def trained_on(self, samples: Samples, epochs: int) -> dict[str, Tensor]:
        """Return the global model after ordinary training on `samples`."""
        model = copy.deepcopy(self.model)
        with deterministic(SEED):
            fit(model, samples, lr=self.lr, epochs=epochs, seed=SEED)
        return dict(model.state_dict())

    def step(self, device: int) -> dict[str, Tensor]:
        """Return the honest step."""
        return difference(self.honest(device), self.state, set(self.state))

    def accuracy(self, state: StateDict) -> Accuracy:
        """Return the accuracy on the trusted samples."""
        model, labels = self.with_state(state), self.trusted.labels
        classes = {
            label: evaluate(model, self.trusted.subset((labels == label).nonzero().flatten()))[1]
            for label in sorted(set(labels.tolist()))
        }
        return Accuracy(evaluate(model, self.trusted)[1], classes)


def train(setting: Setting) -> Trained:
    """Train a federation by federated averaging."""
    told = {"model": setting.model, "clients": setting.clients, "scheme": setting.scheme, "alpha": setting.alpha}
    settings = Settings.read(told)
    data = dataset_of(settings)
    shares = [data.train.subset(torch.from_numpy(part)) for part in split(settings.key())]
    model = initial_model(settings, 0)
    names = parameter_names(model)
    norms, spreads, updates = list[float](), list[float](), list[StateDict]()
    for number in range(setting.rounds):
        before, mean, lengths = copy.deepcopy(model.state_dict()), StateMean(), []
        for device, samples in enumerate(shares):
            student, seed = copy.deepcopy(model), derive_seed(0, number, device)
            with deterministic(seed):
                fit(student, samples, lr=settings.lr, seed=seed)
            lengths.append(norm(difference(student.state_dict(), before, names)))
            mean.add(student.state_dict(), len(samples))
        model.load_state_dict(mean.result())
        middle = statistics.median(lengths)
        norms.append(middle)
        spreads.append(statistics.median(abs(length - middle) for length in lengths))
        updates.append(difference(model.state_dict(), before, set(before)))
    recent = Recent(norms[-WATCHED:], spreads[-WATCHED:], updates[-WATCHED:])
    return Trained(setting, model, shares, data.test, recent, names, settings.lr)


def look(
    trained: Trained, device: int, state: StateDict, *, trusted: bool = False, knows_reach: bool = True
) -> Decision:
    """Return what the guard says to a model that `device` hands back.

    Args:
        trained: the federation.
        device: whose model it is.
        state: the model.
        trusted: whether the server has data that it trusts.
        knows_reach: whether the method says how far it can move a weight.
    """
    reach = trained.method.reach(len(trained.shares[device])) if knows_reach else None
    found = step_findings(state, trained.state, trained.recent, parameters=trained.names, reach=reach)
    if trusted:
        if "before" not in trained.cache:
            trained.cache["before"] = trained.accuracy(trained.state)
        found += accuracy_findings(trained.accuracy(state), trained.cache["before"])
    return decide("refuse", state, trained.state, found)


def _flipped_labels(trained: Trained, device: int) -> Samples:
    samples = trained.shares[device]
    return Samples(samples.inputs, (samples.labels + 1) % 10)


def _with_trigger(trained: Trained, device: int) -> Samples:
    """Return a device's samples, and the same again with a bright corner that means class 0."""
    samples = trained.shares[device]
    marked = samples.inputs.clone()
    marked[..., -2:, -2:] = marked.max()
    zero = torch.zeros_like(samples.labels)
    return Samples(torch.cat([samples.inputs, marked]), torch.cat([samples.labels, zero]))


def _noise(trained: Trained, times: float) -> dict[str, Tensor]:
    """Return the global model with noise of `times` the usual length of a device's step."""
    draw = torch.Generator().manual_seed(SEED)
    size = sum(trained.state[name].numel() for name in trained.names)
    each = times * statistics.median(trained.recent.norms) / math.sqrt(size)
    return moved(
        trained.state, {n: each * torch.randn(trained.state[n].shape, generator=draw) for n in sorted(trained.names)}
    )


def _within_reach(trained: Trained, device: int, state: StateDict) -> dict[str, Tensor]:
    """Return the model with each weight's step cut to what the method can reach."""
    reach = 0.99 * (trained.method.reach(len(trained.shares[device])) or math.inf)
    step = difference(state, trained.state, set(trained.state))
    return moved(trained.state, {name: value.clamp(-reach, reach) for name, value in step.items()})


SABOTAGE: dict[str, Callable[[Trained, int], Mapping[str, Tensor]]] = {
    "the model with its sign turned": lambda t, _: {name: -value for name, value in t.state.items()},
    "an untrained model": lambda t, _: initial_model(Settings.read({"model": t.setting.model}), 99).state_dict(),
    "honest step times 100": lambda t, d: moved(t.state, t.step(d), 100.0),
    "honest step times 10": lambda t, d: moved(t.state, t.step(d), 10.0),
    "noise, 10 usual steps long": lambda t, _: _noise(t, 10),
    "noise, 1 usual step long": lambda t, _: _noise(t, 1),
    "trained on wrong labels, 1 epoch": lambda t, d: t.trained_on(_flipped_labels(t, d), 1),
    "trained on wrong labels, 5 epochs": lambda t, d: t.trained_on(_flipped_labels(t, d), 5),
    "trained to a backdoor, 2 epochs": lambda t, d: t.trained_on(_with_trigger(t, d), 2),
    "trained on, nothing forgotten": lambda t, d: t.trained_on(t.shares[d], 1),
}
UNSEEN: dict[str, Callable[[Trained, int], Mapping[str, Tensor]]] = {
    "nothing done": lambda t, _: t.state,
    "honest step turned round": lambda t, d: moved(t.state, t.step(d), -1.0),
    "wrong labels, kept within reach": lambda t, d: _within_reach(t, d, t.trained_on(_flipped_labels(t, d), 1)),
    "backdoor, kept within reach": lambda t, d: _within_reach(t, d, t.trained_on(_with_trigger(t, d), 2)),
}
"""What an attacker who knows the guard can hand back; much of it is let through."""


GUARDS: dict[str, dict[str, bool]] = {
    "let through": {},
    "and with trusted data": {"trusted": True},
    "reach not known": {"knows_reach": False},
    "reach not known, trusted data": {"knows_reach": False, "trusted": True},
}


def table(settings: tuple[Setting, ...] = SETTINGS) -> list[str]:
    """Return the table: for each kind of model how many of the devices' were let through, and what they cost."""
    everything = {"honest FedQUIT": lambda t, d: t.honest(d), **SABOTAGE, **UNSEEN}
    through, lost = Counter[tuple[str, str]](), {name: list[float]() for name in everything}
    for setting in settings:
        trained = train(setting)
        before = trained.accuracy(trained.state).overall
        for name, make in everything.items():
            for device in range(len(trained.shares)):
                state = make(trained, device)
                lost[name].append(before - trained.accuracy(state).overall)
                for guard, how in GUARDS.items():
                    through[name, guard] += look(trained, device, state, **how).verdict == "adopt"
    lines = [
        f"| model handed back | {' | '.join(GUARDS)} | accuracy lost if adopted |",
        "|---" * (len(GUARDS) + 2) + "|",
    ]
    for name, losses in lost.items():
        counts = " | ".join(f"{through[name, guard]} of {len(losses)}" for guard in GUARDS)
        lines.append(f"| {name} | {counts} | {min(losses):+.2f} to {max(losses):+.2f} |")
    return lines


def main() -> None:
    """Print the table."""
    click.echo("\n".join(["Federations: " + "; ".join(map(str, SETTINGS)) + ".", "", *table()]))
