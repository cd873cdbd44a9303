"""Whether a model can be used: all of it and what it says is finite, and it is about as good as the one before."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedquit.client.data.build_data_and_model import form_of
from fedquit.client.device.device import model_with
from fedquit.client.training.sgd import evaluate
from fedquit.server.lifecycle.round_evaluation import tensors_of
from fedquit.settings import Settings
from fedquit.strategies.guard.round_screen import Verdict
from fedquit.unlearning.samples import Samples

Arrays = Mapping[str, NDArray[Any]]
PROBES = 16
"""Inputs of noise on which every model must give finite logits."""


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
