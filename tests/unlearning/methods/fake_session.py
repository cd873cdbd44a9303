"""A session of one request, served from memory: clients with a linear model each, and a training of some rounds."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.unlearning import ClientReply, Method, Samples, make_method
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.session import History, weighted_mean
from fedquit.unlearning.tensors.convert import StateDict

CLIENTS, ROUNDS = 4, 6


GENTLE: dict[str, dict[str, Any]] = {  # settings that suit so small a model
    "fedquit": {"lr": 0.02, "epochs": 5},
    "ascent": {"lr": 0.1, "epochs": 3},
    "projected-ascent": {"lr": 0.1, "stop_distance": 0.0},
    "pseudo-ascent": {"scale": 3.0},
    "mode": {"rounds": 25, "guidance_rounds": 3, "lr": 0.1},
    "orthogonal": {"rounds": 10, "lr": 0.1},
}


def fresh(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def samples_of(client: int) -> Samples:
    """Client 0 alone holds class 2, two thirds of its samples; the others hold classes 0 and 1 alone."""
    draw = torch.Generator().manual_seed(client)
    labels = torch.tensor([2, 0, 2, 1, 2, 2] * 10) if client == 0 else torch.arange(24 + 6 * client) % 2
    centres = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0]])
    return Samples(centres[labels] + 0.5 * torch.randn(len(labels), 4, generator=draw), labels)


def train(state: StateDict, client: int, seed: int, epochs: int = 1, lr: float = 0.1) -> StateDict:
    model, samples = fresh(0), samples_of(client)
    model.load_state_dict(dict(state))
    optimizer, order = torch.optim.SGD(model.parameters(), lr=lr), torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for index in torch.split(torch.randperm(len(samples), generator=order), 10):
            inputs, labels = samples.batch(index)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return copy.deepcopy(model.state_dict())


@dataclass
class Kept:
    models: dict[int, StateDict] = field(default_factory=dict)
    updates: dict[tuple[int, int], StateDict] = field(default_factory=dict)
    log: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def rounds(self) -> Sequence[int]:
        return sorted(self.models)

    def model(self, number: int) -> StateDict:
        return self.models[number]

    def update(self, number: int, client: int) -> StateDict | None:
        return self.updates.get((number, client))

    def participants(self, number: int) -> Collection[int]:
        return self.log.get(number, ())


@dataclass
class FakeSession:
    method: Method
    current: StateDict
    initial: StateDict
    history: History
    forgotten: tuple[int, ...] = (0,)
    seed: int = 7
    proxy: Samples | None = None
    input_shape: tuple[int, ...] = (4,)
    silent: tuple[int, ...] = ()
    asked: list[tuple[str, tuple[int, ...], dict[str, float]]] = field(default_factory=list)

    @property
    def remaining(self) -> tuple[int, ...]:
        return tuple(c for c in range(CLIENTS) if c not in self.forgotten)

    @property
    def num_examples(self) -> Mapping[int, int]:
        return {c: len(samples_of(c)) for c in range(CLIENTS)}

    def fresh(self, seed: int) -> nn.Module:
        return fresh(seed)

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
        self.asked.append((step if exercise == "forget" else exercise, tuple(clients), config))
        call = len(self.asked)
        for client in sorted(clients, key=lambda c: derive_seed(call, c)):  # some order of arrival
            if client in self.silent:
                continue
            seed, samples = derive_seed(self.seed, "ask", call, client), samples_of(client)
            if exercise == "train":
                new = train(state, client, seed, epochs=int(config.get("epochs", 1)), lr=config.get("lr", 0.1))
            else:
                model = fresh(0)
                model.load_state_dict(dict(state))
                losses = self.method.on_device(model, samples, seed=seed, step=step, config=config, extra=extra)
                assert losses
                new = copy.deepcopy(model.state_dict())
            yield ClientReply(client, new, len(samples), {})


@cache
def trained() -> tuple[StateDict, Kept]:
    """Ordinary federated averaging, everything kept."""
    state, kept = copy.deepcopy(fresh(0).state_dict()), Kept()
    for number in range(1, ROUNDS + 1):
        new = {c: train(state, c, derive_seed(number, c), epochs=5) for c in range(CLIENTS)}
        kept.models[number], kept.log[number] = state, tuple(new)
        for client, model in new.items():
            kept.updates[number, client] = {name: model[name] - state[name] for name in state}
        state = weighted_mean(ClientReply(c, model, len(samples_of(c)), {}) for c, model in new.items())
    return state, kept


def session(method: Method, **changes: Any) -> FakeSession:
    state, kept = trained()
    return replace(FakeSession(method, state, kept.models[1], kept), **{"asked": [], **changes})


def serve(name: str, **changes: Any) -> StateDict:
    method = make_method(name, **GENTLE.get(name, {}))
    return method.serve(session(method, **changes))


def same(one: StateDict, other: StateDict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def parameters(state: StateDict) -> dict[str, Tensor]:
    return {name: value.double() for name, value in state.items() if "running" not in name and "num_" not in name}
