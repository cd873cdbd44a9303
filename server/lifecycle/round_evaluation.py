"""What the server measures after every round, on data it holds: its held-out samples, and in a simulation also D_f."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from fedquit.client.data.build_data_and_model import empty_model
from fedquit.client.data.evaluation_sets import sets_of
from fedquit.client.training.sgd import evaluate
from fedquit.settings import Settings
from fedquit.strategies.guard.step_checks import Accuracy
from fedquit.unlearning.samples import Samples


def load_arrays(model: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> nn.Module:
    """Fill `model` with `arrays` and return it."""
    model.load_state_dict(tensors_of(arrays))
    return model


def tensors_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Return `arrays` as tensors of their own."""
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def accuracy_of(model: nn.Module, samples: Samples) -> Accuracy:
    """Return a model's accuracy on samples, over all of them and of each class that is there."""
    classes = {
        label: evaluate(model, samples.subset((samples.labels == label).nonzero().flatten()))[1]
        for label in sorted(set(samples.labels.tolist()))
    }
    return Accuracy(evaluate(model, samples)[1], classes)


class HeldOut:
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

    def accuracy(self, state: Mapping[str, torch.Tensor]) -> Accuracy:
        """Return a model's accuracy on the held-out samples, for the guard: a server could have such samples."""
        self._model.load_state_dict(dict(state))
        return accuracy_of(self._model, self._sets.holdout)
