"""Clip the unlearning step and add noise to it, on the device that forgets, before it sends the model.

Whoever sees `g + clip(f - g) + N(0, (noise * clip)^2)` once, and may choose among two candidates, wins the game with an
area under the ROC curve of at most `Phi(sqrt(2) / noise)`, whatever the attack: both clipped steps have a norm of at
most `clip`, so they are at most `2 clip` apart, and entries that take no noise are sent back as they came. Nothing
beyond that bound is promised. It is not (epsilon, delta) differential privacy of the samples: g was trained on them,
the number of samples is in the reply, and the noise is drawn by a generator with a seed of 63 bits, in floating point
(Mironov, CCS 2012, shows what that can cost).
"""

from collections.abc import Collection

import torch
from torch import Tensor

from fedquit.unlearning.tensors.arithmetic import difference, moved, norm
from fedquit.unlearning.tensors.convert import StateDict


def blurred(
    new: StateDict, old: StateDict, names: Collection[str], *, clip: float, noise: float, seed: int
) -> dict[str, Tensor]:
    """Return the model `new` with its step from `old` no longer than `clip`, and noise on every parameter.

    With noise, what is no parameter is that of `old`: the statistics of batch normalisation may be the mean and the
    variance of the samples to forget.

    Args:
        new: the model that forgot.
        old: the one that was sent.
        names: the entries that are parameters. The others are those of `new` without noise, those of `old` with it.
        clip: largest Euclidean norm of the step; 0: no clipping and no noise.
        noise: standard deviation of the noise of one parameter, as a multiple of `clip`.
        seed: of the noise; whoever knows it can subtract the noise.

    >>> state = blurred({"w": torch.tensor([3.0, 4.0])}, {"w": torch.zeros(2)}, {"w"}, clip=1.0, noise=0.0, seed=0)
    >>> state["w"]
    tensor([0.6000, 0.8000])
    """
    if not clip:
        return dict(new)
    step, draw = difference(new, old, names), torch.Generator().manual_seed(seed)
    scale = min(1.0, clip / length) if (length := norm(step)) else 1.0
    made = {
        name: scale * value + noise * clip * torch.randn(value.shape, generator=draw, dtype=torch.float64)
        for name, value in step.items()
    }
    base = {name: old[name] if noise or name in made else value for name, value in new.items()}
    return moved(base, made)
