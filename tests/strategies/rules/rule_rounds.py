"""Rounds of one aggregation rule on small arrays, as tests of rules carry them out."""

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedquit.strategies.rules import RULES, Opening, Rule, make_private, make_rule

Arrays = dict[str, NDArray[Any]]


Replies = list[tuple[Arrays, int, dict[str, float]]]


SETTINGS: dict[str, dict[str, float]] = {
    "fedavg": {},
    "fedprox": {"proximal_mu": 0.1},
    "fedavgm": {"server_momentum": 0.9, "server_learning_rate": 0.5},
    "fedadam": {"eta": 0.02},
    "fedyogi": {"eta": 0.02},
    "fedadagrad": {"eta": 0.02},
    "qfedavg": {"q": 0.5, "client_learning_rate": 0.2},
    "fedmedian": {},
    "fedtrimmedavg": {"beta": 0.2},
    "krum": {"num_malicious_nodes": 2},
    "multikrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
    "bulyan": {"num_malicious_nodes": 1},
}


def started(seed: int = 0, scale: float = 1.0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: (scale * rng.normal(size=shape)).astype(np.float32) for name, shape in (("w", (3, 4)), ("b", (4,)))}


def replies_to(sent: Arrays, seed: int, clients: int = 7, step: float = 0.1) -> Replies:
    rng = np.random.default_rng(seed)
    return [
        (
            {name: (array + step * rng.normal(size=array.shape)).astype(array.dtype) for name, array in sent.items()},
            int(rng.integers(1, 50)),
            {"loss": float(rng.uniform(0.1, 2.0)), "norm_bit": 0},
        )
        for _ in range(clients)
    ]


def opened(sent: Arrays, **changed: Any) -> Opening:
    return Opening(**{"sent": sent, "parameters": frozenset(sent), "asked": 7, **changed})


def carry_out(rule: Rule, opening: Opening, replies: Replies, order: list[int] | None = None) -> tuple[Arrays, Any]:
    aggregate = rule.begin(opening)
    for client in order or range(len(replies)):
        arrays, count, metrics = replies[client]
        aggregate.add(client, arrays, count, metrics)
    new, state = aggregate.result()
    return dict(new), state


def stacked(name: str, replies: Replies) -> NDArray[np.float64]:
    return np.stack([arrays[name].astype(np.float64) for arrays, _, _ in replies])


def record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def any_rule(name: str, noise: float = 0.2) -> Rule:
    if name in RULES:
        return make_rule(name, **SETTINGS[name])
    norms = {"clipping_norm": 1.0} if name.endswith("fixed") else {"initial_clipping_norm": 1.0}
    return make_private(name, make_rule("fedavg"), noise_multiplier=noise, **norms)
