"""Evaluate a model on samples that the server holds: its metrics, its accuracy by class, and whether it can be used.

Simulations hold the held-out samples and D_f, a deployment the validation set of `[trusted] data`, if it has one.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fedquit.client.data.build_data_and_model import form_of
from fedquit.client.device.device import model_with
from fedquit.client.training.sgd import evaluate
from fedquit.settings import Settings
from fedquit.strategies.guard.round_screen import Verdict
from fedquit.strategies.guard.step_checks import Accuracy
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.convert import Arrays, StateDict, tensors_of
from fedquit.unlearning.tensors.inference import device_of

PROBES = 16
"""Inputs of noise on which every model must give finite logits."""


@dataclass(frozen=True)
class Evaluator:
    """Evaluates models.

    Args:
        settings: of the federation; they say what the model is.
        samples: that the server holds; None or empty: it holds none.
    """

    settings: Settings
    samples: Samples | None

    @property
    def held(self) -> Samples | None:
        """The samples; None: there are none."""
        return self.samples if self.samples is not None and len(self.samples) else None

    def without(self, classes: Collection[int]) -> "Evaluator":
        """Return the evaluator that leaves out the samples of some classes."""
        if self.samples is None or not classes:
            return self
        remaining = ~torch.isin(self.samples.labels, torch.tensor(sorted(classes)))
        return Evaluator(self.settings, self.samples.subset(remaining.nonzero().flatten()))

    def metrics(self, arrays: Arrays) -> dict[str, float]:
        """Return `accuracy` and `loss` (nats) of a model; the loss need not be finite. {}: there are no samples."""
        return self._metrics(self._model(arrays))

    def accuracy(self, state: StateDict) -> Accuracy | None:
        """Return a model's accuracy, as the guard compares it; None: there are no samples."""
        return None if self.held is None else accuracy_of(model_with(self.settings, state), self.held)

    def usable(self, before: Arrays) -> Callable[[Arrays], Verdict]:
        """Return what says whether a round's model can be used; its score is its accuracy, if there are samples.

        A usable model is finite, and keeps `accuracy-floor` of the accuracy before.

        Args:
            before: the model that the round begins with.
        """
        draw = torch.Generator().manual_seed(0)
        probes = torch.randn((PROBES, *form_of(self.settings).input_shape), generator=draw)
        floor = self.settings.accuracy_floor
        least = floor * self.metrics(before)["accuracy"] if floor and self.held is not None else 0.0

        def check(arrays: Arrays) -> Verdict:
            for name, array in arrays.items():
                if not np.isfinite(array).all():
                    return Verdict(f"'{name}' of the model holds NaN or infinity")
            model = self._model(arrays).eval()
            with torch.no_grad():
                if not bool(model(probes.to(device_of(model))).isfinite().all()):
                    return Verdict("the model's logits are not finite")
            found = self._metrics(model)
            if not found:
                return Verdict()
            if not math.isfinite(found["loss"]):
                return Verdict("the model's loss on the server's samples is not finite")
            accuracy = found["accuracy"]
            below = f"accuracy falls to {accuracy:.3f}, below {least:.3f}" if accuracy < least else ""
            return Verdict(below, accuracy)

        return check

    def _metrics(self, model: nn.Module) -> dict[str, float]:
        if self.held is None:
            return {}
        loss, accuracy = evaluate(model, self.held)
        return {"accuracy": accuracy, "loss": loss}

    def _model(self, arrays: Arrays) -> nn.Module:
        return model_with(self.settings, tensors_of(arrays))


def accuracy_of(model: nn.Module, samples: Samples) -> Accuracy:
    """Return a model's accuracy on samples, over all of them and of each class that is there."""
    classes = {
        label: evaluate(model, samples.subset((samples.labels == label).nonzero().flatten()))[1]
        for label in sorted(set(samples.labels.tolist()))
    }
    return Accuracy(evaluate(model, samples)[1], classes)
