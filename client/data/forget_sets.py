"""Which samples each request of a run is about: all of a client, some of its samples, or a class wherever it lies.

Requests come one after the other, and each is about what the ones before it have left. Everything is an index into the
training set, client by client; in a simulation the server knows them too, to measure.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedquit.client.data.build_data_and_model import dataset_of, split
from fedquit.client.data.partition import Indices
from fedquit.errors import InputError
from fedquit.files import read_json
from fedquit.settings import Key, Settings, settings_of
from fedquit.unlearning.seeds import derive_seed
from fedquit.user_factory import import_factory, is_factory


@lru_cache(maxsize=32)
def to_keep(key: Key, requests: int) -> tuple[Indices, ...]:
    """Return, for each client, the indices that remain after `requests` requests; empty: nothing of it remains."""
    if not requests:
        return split(key)
    before, gone = to_keep(key, requests - 1), to_forget(key, requests - 1)
    return tuple(part[~np.isin(part, those)] if len(those) else part for part, those in zip(before, gone, strict=True))


@lru_cache(maxsize=32)
def to_forget(key: Key, request: int) -> tuple[Indices, ...]:
    """Return, for each client, the indices that request number `request`, from 0, is about.

    Raises:
        InputError: there is nothing to forget, nothing would be left, or samples named are not the client's.
    """
    settings, parts = settings_of(key), to_keep(key, request)
    if settings.granularity == "class":
        labels = dataset_of(settings).train.labels.numpy()
        found = tuple(part[np.isin(labels[part], settings.forget_class[request])] for part in parts)
    else:
        choose = {"client": _all, "sample": _some}[settings.granularity]
        found = tuple(
            choose(settings, client, part, request) if client in settings.forget[request] else part[:0]
            for client, part in enumerate(parts)
        )
    if not any(map(len, found)):
        classes = (
            f"class {', '.join(map(str, settings.forget_class[request]))}" if settings.forget_class else "such samples"
        )
        raise InputError(f"request {request + 1}: nobody holds {classes}: nothing to forget")
    if sum(map(len, found)) == sum(map(len, parts)):
        raise InputError(f"request {request + 1}: all samples would be forgotten; something must stay")
    return found


def askers(settings: Settings, request: int) -> tuple[int, ...]:
    """Return the clients that hold something that the request is about.

    >>> askers(Settings(clients=4, forget="1;3"), 1)
    (3,)
    """
    return tuple(client for client, part in enumerate(to_forget(settings.key(), request)) if len(part))


def forgotten_clients(settings: Settings, requests: int) -> tuple[int, ...]:
    """Return the clients of which nothing remains after `requests` requests: they no longer take part.

    >>> forgotten_clients(Settings(clients=4, forget="1;3"), 2)
    (1, 3)
    """
    return tuple(client for client, part in enumerate(to_keep(settings.key(), requests)) if not len(part))


def _all(settings: Settings, client: int, part: Indices, request: int) -> Indices:
    del settings, client, request
    return part


def _some(settings: Settings, client: int, part: Indices, request: int) -> Indices:
    """Return a share of the client's samples drawn by the seed, or those that a file or a predicate names."""
    chosen = settings.forget_samples
    if not chosen:
        size = min(len(part), max(1, round(settings.forget_share * len(split(settings.key())[client]))))
        draw = np.random.default_rng(derive_seed(settings.seed_of_split, "samples to forget", request, client))
        return np.sort(draw.choice(part, size, replace=False))
    if is_factory(chosen):
        return part[_asked(chosen, settings, part)]
    named = _named(Path(chosen), client)
    strangers = np.setdiff1d(named, part)
    if len(strangers):
        raise InputError(f"{chosen}: sample {strangers[0]} is not one of client {client}'s, or is forgotten already")
    return np.unique(named)


def _asked(spec: str, settings: Settings, part: Indices) -> NDArray[np.bool_]:
    """Ask the predicate `package.module:function(inputs, labels)` which of these samples are meant."""
    samples = dataset_of(settings).train.subset(torch.from_numpy(part))
    try:
        mask = np.asarray(import_factory(spec)(samples.inputs, samples.labels))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"predicate '{spec}' failed ({type(error).__name__}: {error})") from error
    if mask.dtype != bool or mask.shape != (len(part),):
        raise InputError(f"predicate '{spec}' gave {mask.dtype} {mask.shape}; it must give bool ({len(part)},)")
    return mask


def _named(path: Path, client: int) -> Indices:
    """Return what a file of client -> indices says of this client."""
    content = read_json(path, "the samples to forget")
    indices = content.get(str(client)) if isinstance(content, dict) else None
    if not isinstance(indices, list) or not indices or not all(type(index) is int for index in indices):
        raise InputError(f'{path} holds no list of indices for client {client}; write {{"{client}": [12, 345]}}')
    return np.array(indices, dtype=np.int64)
