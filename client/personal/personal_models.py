"""Personalised models: which architecture each device has, its initial weights, and since when it has trained them.

A device that holds samples of a request has trained its model on them: at that request it starts over. All others keep
theirs.
"""

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedquit.client.data.build_data_and_model import form_of, initial_model
from fedquit.client.data.forget_sets import to_forget
from fedquit.client.training.build_objective import objective_of
from fedquit.errors import InputError
from fedquit.files import read_json
from fedquit.settings import Key, Settings, settings_of
from fedquit.unlearning.seeds import derive_seed


def models_of(settings: Settings) -> tuple[str, ...]:
    """Return the name of each client's model.

    Raises:
        InputError: the file of them cannot be read, or does not name a client's.

    >>> models_of(Settings(clients=3, models="cnn,mlp"))
    ('cnn', 'mlp', 'cnn')
    """
    if settings.models.endswith(".json"):
        return _named(Path(settings.models), settings.clients)
    names = [part.strip() for part in settings.models.split(",") if part.strip()] or [settings.model]
    return tuple(names[client % len(names)] for client in range(settings.clients))


def own_model(settings: Settings, client: int, seed: int) -> nn.Module:
    """Return a client's personalised model, its initial weights drawn from `seed`: the same for all of one kind."""
    with torch.random.fork_rng(devices=[]):
        model = initial_model(settings, seed, models_of(settings)[client])
        torch.manual_seed(derive_seed(seed, "own model"))
        return objective_of(settings).shaped(model)


def empty_own_model(settings: Settings, client: int) -> nn.Module:
    """Return a model of a client's kind, to be filled."""
    return copy.deepcopy(_empty(settings.key(), models_of(settings).index(models_of(settings)[client])))


@lru_cache(maxsize=8)
def _empty(key: Key, client: int) -> nn.Module:
    return own_model(settings_of(key), client, 0)


def begun_after(settings: Settings, client: int, requests: int) -> int:
    """Return the last of `requests` requests that a client holds samples of: its model is no older; 0: none.

    >>> begun_after(Settings(clients=3, forget="0;1", forget_share=0.5, granularity="sample"), client=0, requests=2)
    1
    """
    key = settings.key()
    return max((number for number in range(1, requests + 1) if len(to_forget(key, number - 1)[client])), default=0)


def check_own_models(settings: Settings) -> None:
    """Refuse models that the objective cannot train, or that cannot share what it shares.

    Raises:
        InputError: saying which.
    """
    objective, classes, names = objective_of(settings), form_of(settings).num_classes, models_of(settings)
    first: Any = None
    for name in dict.fromkeys(names):
        model = empty_own_model(settings, names.index(name))
        objective.check(model)
        forms = objective.sharing(model, classes).fits({}, {})
        first = first or (name, forms)
        if forms != first[1]:
            part = next(part for part, form in forms.items() if form != first[1][part])
            shapes = [list(found[part].shape) for found in (first[1], forms)]
            hint = ", or set objective-settings features=128" if hasattr(objective, "features") else ""
            raise InputError(
                f"models: what '{first[0]}' and '{name}' share with objective '{settings.objective}' is not alike: "
                f"{part} {shapes[0]} and {shapes[1]}; choose models that are alike in that{hint}"
            )


def _named(path: Path, clients: int) -> tuple[str, ...]:
    content = read_json(path, "the models of devices")
    names: list[Any] = [content.get(str(client)) if isinstance(content, dict) else None for client in range(clients)]
    if not all(isinstance(name, str) and name for name in names):
        missing = next(client for client, name in enumerate(names) if not (isinstance(name, str) and name))
        raise InputError(f'models: {path} names no model for client {missing}; write {{"{missing}": "cnn", ...}}')
    return tuple(names)
