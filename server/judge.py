"""What the server measures after every round, on data it holds: its held-out samples, and in a simulation also D_f."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from fedquit.client.device import dataset_of, empty_model, split
from fedquit.client.settings import Settings
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
    """The four sets of a simulated run: D_f to forget, D_r to retain, held-out for stop rules, D_t for results."""

    forget: Samples
    retain: Samples
    holdout: Samples
    test: Samples


def sets_of(settings: Settings) -> Sets:
    """Return the sets of a run; held-out and test samples share the test part, the same way for every seed."""
    data = dataset_of(settings)
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(derive_seed(0, "holdout")))
    held_out = max(1, min(settings.holdout, len(data.test) // 2))
    parts = [torch.from_numpy(part) for part in split(settings.key())]
    stay = [part for client, part in enumerate(parts) if client not in settings.forget]
    return Sets(
        forget=data.train.subset(torch.cat([parts[client] for client in settings.forget])),
        retain=data.train.subset(torch.cat(stay)),
        holdout=data.test.subset(order[:held_out]),
        test=data.test.subset(order[held_out:]),
    )


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
