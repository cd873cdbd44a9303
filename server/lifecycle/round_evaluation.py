"""What the server measures of a model on data it holds: held-out samples, in a simulation also D_f; and usability."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedquit.client.data.build_data_and_model import empty_model, form_of
from fedquit.client.data.evaluation_sets import sets_of
from fedquit.client.device.device import model_with
from fedquit.client.training.sgd import evaluate
from fedquit.settings import Settings
from fedquit.strategies.guard.round_screen import Verdict
from fedquit.strategies.guard.step_checks import Accuracy
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.convert import Arrays, load_arrays, tensors_of

PROBES = 16
"""Inputs of noise on which every model must give finite logits."""


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


def usable(settings: Settings, before: Arrays, samples: Samples | None, floor: float) -> Callable[[Arrays], Verdict]:
    """Return what says whether a round's model can be used; its score is its accuracy, if there are samples.

    Args:
        settings: of the federation.
        before: the model that the round begins with.
        samples: that the server holds; None or empty: none.
        floor: share of the accuracy before that must be left.
    """
    form = form_of(settings)
    draw = torch.Generator().manual_seed(0)
    probes = torch.randn((PROBES, *form.input_shape), generator=draw)
    held = samples if samples is not None and len(samples) else None
    least = 0.0 if held is None or not floor else floor * evaluate(model_with(settings, tensors_of(before)), held)[1]

    def look(arrays: Arrays) -> Verdict:
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                return Verdict(f"'{name}' of the model holds NaN or infinity")
        model = model_with(settings, tensors_of(arrays)).eval()
        with torch.no_grad():
            if not bool(model(probes).isfinite().all()):
                return Verdict("the model's logits are not finite")
        if held is None:
            return Verdict()
        loss, accuracy = evaluate(model, held)
        if not math.isfinite(loss):
            return Verdict("the model's loss on the server's samples is not finite")
        below = f"accuracy falls to {accuracy:.3f}, below {least:.3f}" if accuracy < least else ""
        return Verdict(below, accuracy)

    return look
