"""What the server measures after every round, on data it holds: its held-out samples, and in a simulation also D_f."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedquit.client.request import to_forget, to_keep
from fedquit.client.settings import Settings
from fedquit.client.share import dataset_of, empty_model
from fedquit.client.training import evaluate
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.seeds import derive_seed


def load_arrays(model: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> nn.Module:
    """Fill `model` with `arrays` and return it."""
    model.load_state_dict(tensors_of(arrays))
    return model


def tensors_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Return `arrays` as tensors of their own."""
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


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


def sets_of(settings: Settings) -> Sets:
    """Return the sets of a run; held-out and test samples share the test part, the same way for every seed.

    D_f is what all requests together are about. Classes to forget are left out of held-out and test samples: no model
    without them could be right on those.
    """
    data, key, number = dataset_of(settings), settings.key(), settings.num_requests
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(derive_seed(0, "holdout")))
    gone = [label for request in settings.forget_class for label in request]
    order = order[~torch.isin(data.test.labels[order], torch.tensor(gone, dtype=torch.int64))]
    held_out = max(1, min(settings.holdout, len(order) // 2))
    forgotten, kept = [to_forget(key, request) for request in range(number)], to_keep(key, number)
    owners = {"forget": [_owners(parts) for parts in forgotten], "retain": [_owners(kept)]}
    return Sets(
        forget=data.train.subset(torch.cat([indices_of(parts) for parts in forgotten])),
        retain=data.train.subset(indices_of(kept)),
        holdout=data.test.subset(order[:held_out]),
        test=data.test.subset(order[held_out:]),
        owners={part: torch.cat(those) for part, those in owners.items()},
        requests=torch.cat([torch.full((len(those),), i) for i, those in enumerate(owners["forget"])]),
    )


def indices_of(parts: Sequence[NDArray[np.int64]]) -> torch.Tensor:
    """Return the indices of all clients, one after the other."""
    return torch.from_numpy(np.concatenate(parts))


def _owners(parts: Sequence[NDArray[np.int64]]) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(part) for part in parts]))


class Judge:
    """Measure models on the held-out samples and on D_f."""

    def __init__(self, settings: Settings) -> None:
        self._model = copy.deepcopy(empty_model(settings.key()))
        self._sets = sets_of(settings)

    def __call__(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Return the accuracies of a model."""
        load_arrays(self._model, arrays)
        return {
            "holdout_accuracy": evaluate(self._model, self._sets.holdout)[1],
            "forget_accuracy": evaluate(self._model, self._sets.forget)[1],
        }
