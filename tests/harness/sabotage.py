"""Which models the guard lets through, and which it stops: honest forgetting beside sabotage, on digits.

make guard > guard.md
"""

import copy
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import click
import torch
from torch import Tensor, nn

from fedquit.client.data.build_data_and_model import dataset_of, initial_model, split
from fedquit.client.training.sgd import deterministic, fit
from fedquit.errors import BadReplyError, FedquitError
from fedquit.server.lifecycle.evaluator import accuracy_of
from fedquit.settings import Settings
from fedquit.strategies.guard.decide import Decision, Policy, admit_model, check_reply
from fedquit.strategies.guard.step_checks import Accuracy, Recent, bounds_of, longest_of
from fedquit.unlearning.methods.base import Method, make_method
from fedquit.unlearning.methods.fedquit import FedQUIT
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.session import ClientReply
from fedquit.unlearning.tensors.arithmetic import StateMean, difference, moved, norm, parameter_names
from fedquit.unlearning.tensors.convert import StateDict

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
        model = "cnn with batch normalisation" if self.model == BUFFERED else self.model
        return f"{model}, {self.clients} devices, {spread}, FedQUIT lr {self.lr:g}"


def normalised(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return a small network with batch normalisation: a model with buffers."""
    channels = input_shape[0]
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(256, num_classes),
    )


BUFFERED = "tests.harness.sabotage:normalised"
SETTINGS = (
    Setting("mlp", "dirichlet", 5, 1e-4),
    Setting("mlp", "iid", 5, 1e-3),
    Setting("cnn", "dirichlet", 5, 1e-4, alpha=0.1),
    Setting("cnn", "iid", 5, 1e-3),
    Setting("cnn", "dirichlet", 10, 1e-4),
)
WITH_BUFFERS = (Setting(BUFFERED, "dirichlet", 5, 1e-4), Setting(BUFFERED, "iid", 5, 1e-3))
FEW = SETTINGS[:2]


@dataclass
class Trained:
    """A federation after its rounds of training.

    Attributes:
        model: the global one.
        shares: each device's samples.
        trusted: samples that the server might hold.
        recent: what the last rounds showed.
        names: of the parameters.
        lr: of training.
        initial: the untrained model.
    """

    setting: Setting
    model: nn.Module
    shares: list[Samples]
    trusted: Samples
    recent: Recent
    names: frozenset[str]
    lr: float
    initial: StateDict = field(default_factory=dict)

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
        return accuracy_of(self.with_state(state), self.trusted)


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
    recent = Recent(norms[-WATCHED:], spreads[-WATCHED:], updates[-WATCHED:], longest=longest_of(norms))
    initial = dict(initial_model(settings, 0).state_dict())
    return Trained(setting, model, shares, data.test, recent, names, settings.lr, initial)


def look(
    trained: Trained,
    device: int,
    state: StateDict,
    *,
    trusted: bool = False,
    knows_reach: bool = True,
    policy: str = "refuse",
    known: Sequence[tuple[StateDict, Accuracy]] = (),
) -> Decision:
    """Return what the guard says to a model that `device` hands back.

    Args:
        trained: the federation.
        device: whose model it is.
        state: the model.
        trusted: whether the server has data that it trusts.
        knows_reach: whether the method says how far it can move a weight.
        policy: of the guard.
        known: accuracies of models that need not be measured again.
    """
    current = known[0][0] if known else trained.state

    def evaluate(model: StateDict) -> Accuracy | None:
        if not trusted:
            return None
        return next((accuracy for seen, accuracy in known if seen is model), None) or trained.accuracy(model)

    bounds = bounds_of(trained.method, trained.names, [len(trained.shares[device])])
    bounds = bounds if knows_reach else replace(bounds, reach=None)
    return admit_model(state, current, trained.recent, bounds, Policy(policy), evaluate)


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
    """Return the table of FedQUIT: for each kind of model how many of the devices' pass, and what they cost."""
    everything = {"honest FedQUIT": lambda t, d: t.honest(d), **SABOTAGE, **UNSEEN}
    return _counted("model handed back", settings, everything, GUARDS)


def buffer_table(settings: tuple[Setting, ...] = WITH_BUFFERS) -> list[str]:
    """Return the same for models with batch normalisation: an honest step, and one buffer that is not."""
    everything = {"honest FedQUIT": lambda t, d: t.honest(d), **BUFFERS}
    guards: dict[str, dict[str, Any]] = {name: {"policy": name} for name in ("refuse", "clip", "blend", "adopt")}
    return _counted("model handed back", settings, everything, guards)


def _counted(
    title: str,
    settings: tuple[Setting, ...],
    everything: Mapping[str, Callable[[Trained, int], Mapping[str, Tensor]]],
    guards: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    through, lost = Counter[tuple[str, str]](), {name: list[float]() for name in everything}
    for setting in settings:
        trained = train(setting)
        before = (trained.state, trained.accuracy(trained.state))
        for name, make in everything.items():
            for device in range(len(trained.shares)):
                state = make(trained, device)
                known = (before, (state, trained.accuracy(state)))
                lost[name].append(known[0][1].overall - known[1][1].overall)
                for guard, how in guards.items():
                    through[name, guard] += look(trained, device, state, known=known, **how).state is not None
    lines = [f"| {title} | {' | '.join(guards)} | accuracy lost if adopted |", "|---" * (len(guards) + 2) + "|"]
    for name, losses in lost.items():
        counts = " | ".join(f"{through[name, guard]} of {len(losses)}" for guard in guards)
        lines.append(f"| {name} | {counts} | {min(losses):+.2f} to {max(losses):+.2f} |")
    return lines


def first_buffer(kind: str, value: float) -> Callable[[Trained, int], Mapping[str, Tensor]]:
    """Return what makes an honest step with one entry of the first buffer of a kind set to a value."""

    def make(trained: Trained, device: int) -> Mapping[str, Tensor]:
        state = {name: tensor.clone() for name, tensor in trained.honest(device).items()}
        state[next(name for name in state if name.endswith(kind))].view(-1)[0] = value
        return state

    return make


def without_variance(trained: Trained, device: int) -> Mapping[str, Tensor]:
    """Return an honest step with all variances 0."""
    state = trained.honest(device)
    return {name: torch.zeros_like(t) if name.endswith("running_var") else t for name, t in state.items()}


BUFFERS: dict[str, Callable[[Trained, int], Mapping[str, Tensor]]] = {
    "one variance -50": first_buffer("running_var", -50.0),
    "one variance 1e6": first_buffer("running_var", 1e6),
    "all variances 0": without_variance,
    "one mean 1000": first_buffer("running_mean", 1e3),
    "-1 batches counted": first_buffer("num_batches_tracked", -1),
}


@dataclass
class Session:
    """See `fedquit.unlearning.session.Session`: one request of a device, served in memory; some lie.

    Attributes:
        asker: the device that asks.
        liars: devices that hand back random weights in place of what they were asked for.
        check: as that of `fedquit.server.lifecycle.grid_session.GridSession`.
    """

    trained: Trained
    method: Method
    asker: int
    liars: frozenset[int]
    check: Callable[..., None]
    seed: int = SEED
    proxy: Samples | None = None
    history: Any = None
    calls: int = 0

    @property
    def current(self) -> StateDict:
        """The global model."""
        return self.trained.state

    @property
    def initial(self) -> StateDict:
        """The untrained model."""
        return self.trained.initial

    @property
    def forgotten(self) -> tuple[int, ...]:
        """The device that asks."""
        return (self.asker,)

    @property
    def remaining(self) -> tuple[int, ...]:
        """All others."""
        return tuple(device for device in range(len(self.trained.shares)) if device != self.asker)

    @property
    def num_examples(self) -> Mapping[int, int]:
        """Samples of each device."""
        return dict(enumerate(map(len, self.trained.shares)))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one of the model's inputs."""
        return tuple(self.trained.shares[self.asker].inputs.shape[1:])

    def fresh(self, seed: int) -> nn.Module:
        """Return an untrained model."""
        return initial_model(Settings.read({"model": self.trained.setting.model}), seed)

    def run(
        self,
        exercise: str,
        clients: Sequence[int],
        state: StateDict,
        *,
        step: str = "forget",
        extra: StateDict | None = None,
        **config: float,
    ) -> Iterator[ClientReply]:
        """Have devices do it, or lie; what the guard refuses is missing."""
        self.calls += 1
        for device in clients:
            model, samples = self.trained.with_state(state), self.trained.shares[device]
            seed = derive_seed(self.seed, self.calls, device)
            with deterministic(seed):
                if device in self.liars:
                    model.load_state_dict(_random(state, seed))
                elif exercise == "train":
                    fit(model, samples, lr=config.get("lr", self.trained.lr), seed=seed)
                else:
                    self.method.on_device(model, samples, seed=seed, step=step, config=config, extra=extra)
            new = copy.deepcopy(model.state_dict())
            try:
                self.check(new, state, training=exercise == "train")
            except BadReplyError:
                continue
            yield ClientReply(device, new, len(samples), {})


def _random(state: StateDict, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed % 2**31)
    return {name: torch.randn(value.shape, generator=draw).to(value.dtype) for name, value in state.items()}


LIARS: dict[str, Callable[[Trained, int], frozenset[int]]] = {
    "nobody": lambda _t, _d: frozenset(),
    "the device that asks": lambda _t, d: frozenset({d}),
    "one of the others": lambda t, d: frozenset({(d + 1) % len(t.shares)}),
    "all the others": lambda t, d: frozenset(range(len(t.shares))) - {d},
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "mode": ("mode", {}),
    "orthogonal": ("orthogonal", {}),
    "orthogonal, one gradient a round": ("orthogonal", {"epochs": 1, "batch_size": 1000}),
}
"""Row -> method and its settings."""


def method_table(settings: tuple[Setting, ...] = FEW) -> list[str]:
    """Return the table of methods that ask more than the device that asks, and what they cost where some lie."""
    lines = [
        "| method | random weights from | adopted | and with trusted data | accuracy lost where adopted |",
        "|---" * 5 + "|",
    ]
    federations = [train(setting) for setting in settings]
    for row, (name, told) in METHODS.items():
        for who, liars in LIARS.items():
            counts, lost = [0, 0], list[float]()
            for trained in federations:
                for device in range(len(trained.shares)):
                    served = _served(trained, device, make_method(name, **told), liars(trained, device))
                    counts = [count + (loss is not None) for count, loss in zip(counts, served, strict=True)]
                    lost += [loss for loss in served if loss is not None]
            shown = f"{min(lost):+.2f} to {max(lost):+.2f}" if lost else "-"
            total = sum(len(trained.shares) for trained in federations)
            lines.append(f"| {row} | {who} | {counts[0]} of {total} | {counts[1]} of {total} | {shown} |")
    return lines


def _served(trained: Trained, device: int, method: Method, liars: frozenset[int]) -> tuple[float | None, float | None]:
    """Return what accuracy a request costs before recovery, without trusted data and with.

    None: the method could not do it, as the guard left out who it needs, or the guard refused what it made.
    """
    bounds, policy, current = bounds_of(method, trained.names, [len(trained.shares[device])]), Policy(), trained.state

    def check(new: StateDict, sent: StateDict, *, training: bool) -> None:
        check_reply(new, sent, trained.recent, bounds, policy, training=training)

    try:
        state = method.serve(Session(trained, method, device, liars, check))
    except FedquitError:
        return None, None
    lost = trained.accuracy(current).overall - trained.accuracy(state).overall
    decisions = [
        admit_model(state, current, trained.recent, bounds, policy, evaluate) for evaluate in (None, trained.accuracy)
    ]
    without, trusted = (None if decision.state is None else lost for decision in decisions)
    return without, trusted


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)  # such small models keep more threads waiting for each other
    for settings, made in ((SETTINGS, table), (FEW, method_table), (WITH_BUFFERS, buffer_table)):
        click.echo("\n".join(["Federations: " + "; ".join(map(str, settings)) + ".", "", *made(), ""]))
