"""What models are measured on: D_f to forget, D_r to retain, held-out samples for stop rules, and D_t for results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from fedquit.client.data.build_data_and_model import dataset_of
from fedquit.client.data.forget_sets import to_forget, to_keep
from fedquit.settings import Key, Settings, settings_of
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Sets:
    """The four sets of a simulated run: D_f to forget, D_r to retain, held-out for stop rules, D_t for results.

    Attributes:
        owners: whose each sample of "forget" and "retain" is, client numbers [N].
        requests: which request each sample of `forget` belongs to, from 0, [N].
    """

    forget: Samples
    retain: Samples
    holdout: Samples
    test: Samples
    owners: Mapping[str, torch.Tensor]
    requests: torch.Tensor


def sets_of(settings: Settings, client: int | None = None) -> Sets:
    """Return the sets of a run; held-out and test samples share the test part, the same way for every seed.

    D_f is what all requests together are about. Classes to forget are left out of held-out and test samples: no model
    without them could be right on those.

    Args:
        settings: of the run.
        client: if given, D_r is what is left of this client's own samples alone.
    """
    key = settings.key()
    kept = [
        part if client in (None, owner) else part[:0] for owner, part in enumerate(to_keep(key, settings.num_requests))
    ]
    forget, owners, requests = all_to_forget(key)
    holdout, test = held_out_and_test(key)
    return Sets(
        forget=forget,
        retain=dataset_of(settings).train.subset(indices_of(kept)),
        holdout=holdout,
        test=test,
        owners={"forget": owners, "retain": _owners(kept)},
        requests=requests,
    )


@lru_cache(maxsize=2)
def held_out_and_test(key: Key) -> tuple[Samples, Samples]:
    """Return the held-out samples and those for results."""
    settings = settings_of(key)
    data = dataset_of(settings)
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(derive_seed(0, "holdout")))
    gone = [label for request in settings.forget_class for label in request]
    order = order[~torch.isin(data.test.labels[order], torch.tensor(gone, dtype=torch.int64))]
    held_out = max(1, min(settings.holdout, len(order) // 2))
    return data.test.subset(order[:held_out]), data.test.subset(order[held_out:])


@lru_cache(maxsize=2)
def all_to_forget(key: Key) -> tuple[Samples, torch.Tensor, torch.Tensor]:
    """Return what all requests together are about, whose each sample is, and which request's."""
    settings = settings_of(key)
    forgotten = [to_forget(key, request) for request in range(settings.num_requests)]
    owners = [_owners(parts) for parts in forgotten]
    return (
        dataset_of(settings).train.subset(torch.cat([indices_of(parts) for parts in forgotten])),
        torch.cat(owners),
        torch.cat([torch.full((len(those),), i) for i, those in enumerate(owners)]),
    )


def indices_of(parts: Sequence[NDArray[np.int64]]) -> torch.Tensor:
    """Return the indices of all clients, one after the other."""
    return torch.from_numpy(np.concatenate(parts))


def _owners(parts: Sequence[NDArray[np.int64]]) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(part) for part in parts]))
