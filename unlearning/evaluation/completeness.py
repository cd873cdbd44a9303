"""How far has each sample been forgotten: two measures between "still trained on" (0) and "never trained on" (1).

`iam` is the Interpolated Approximate Measurement of Wang et al., arXiv 2506.06112, as its published code computes it
(github.com/Happy2Git/Unlearning_Inference_IAM, online score with Gumbel noise): good for ranking, but it scores a model
that never had the sample below 1, so compare it with the score of a retrained model. `position` is OURS, not the
paper's: where the candidate stands on the line from the original model to the retrained one, exactly 0 and 1 at its
ends, below 0 if it fits the sample more than the original did and above 1 if it was pushed too far.
"""

import math

import torch
from torch import Tensor

from fedquit.errors import InputError
from fedquit.unlearning.evaluation.probabilities import Array

EULER_GAMMA = 0.5772156649015329
OUTER, INNER = 1e-2, 1e-5  # the signal's two small numbers, as published


def fitting_signal(confidence: Array) -> Tensor:
    """Return `-log(a - log(b + p_y))`, scaled so that p_y = 0 gives 0 and p_y = 1 gives 1; float64, any shape.

    It spreads the confidences near 1, where fitted and unseen samples differ. a = 0.01 and b = 0.00001 as published.

    >>> fitting_signal(torch.tensor([0.0, 0.9, 1.0]))
    tensor([0.0000, 0.6530, 1.0000], dtype=torch.float64)
    """
    p = torch.as_tensor(confidence).detach().cpu().double()
    if not bool(((p >= 0) & (p <= 1 + 1e-6)).all()):
        raise InputError("confidences lie outside 0..1 or are NaN; they must be probabilities of the true class")
    low, high = (-math.log(OUTER - math.log(INNER + end)) for end in (0, 1))
    return (-torch.log(OUTER - torch.log(INNER + p.clamp(max=1))) - low) / (high - low)


def iam(original: Array, shadows: Array, candidate: Array, *, steps: int = 100) -> Tensor:
    """Return the completeness of each sample, float64 [N], 0..1: 1 minus its membership over interpolated models.

    Between the shadow model (never trained on the sample) and the original lie `steps` imagined models; at each, the
    candidate's signal is placed in a Gumbel distribution around the interpolated one, and the more of the way to the
    original it passes, the more it is a member: `1 - sum_k a_(k+1) F_k(x) / sum_k a_(k+1)`, `a_k = k / (steps - 1)`.
    The spread of each step is over samples (one shadow model can give no other), so a score depends on which
    samples are asked together.

    Args:
        original: probability of the true class [N] by the model before forgetting.
        shadows: the same [S, N], or [N], by models never trained on the samples.
        candidate: the same [N] by the model under test.
        steps: how many models on the way, both ends counted; at least 2.

    >>> original, shadow = torch.tensor([0.99, 0.97]), torch.tensor([0.6, 0.4])
    >>> bool((iam(original, shadow, shadow) > iam(original, shadow, original)).all())
    True
    """
    if steps < 2:
        raise InputError(f"steps is {steps}; it must be at least 2")
    before, without, now = (fitting_signal(given) for given in _shaped(original, shadows, candidate))
    way = torch.linspace(0, 1, steps, dtype=torch.float64)
    models = without + way[:-1, None, None] * (before - without)  # [steps - 1, S, N]
    scale = models.std(dim=(1, 2), correction=0).clamp(min=1e-10)[:, None] * math.sqrt(6) / math.pi
    place = models.mean(dim=1) - EULER_GAMMA * scale
    passed = (-(-(now - place) / scale).exp()).exp()
    return 1 - (way[1:, None] * passed).sum(dim=0) / way[1:].sum()


def position(original: Array, without: Array, candidate: Array) -> float | None:
    """Return where the candidate stands between the original (0) and a model without the samples (1): OURS.

    `sum_i g_i (o_i - x_i) / sum_i g_i^2` with `g_i = o_i - r_i`: the least-squares place of the candidate's scores x on
    the line from the original's o to the retrained model's r. A sample counts as much as retraining changes it; one
    that retraining does not change says nothing. None if no sample changes.

    Args:
        original: a score of each sample [N], such as `logit_confidence`, by the model before forgetting.
        without: the same by a retrained or shadow model, or the mean of several.
        candidate: the same by the model under test.

    >>> position(torch.tensor([4.0, 2.0]), torch.tensor([0.0, 2.0]), torch.tensor([1.0, 9.0]))
    0.75
    """
    o, r, x = (torch.as_tensor(given).detach().cpu().double() for given in (original, without, candidate))
    if o.ndim != 1 or not o.shape == r.shape == x.shape:
        shapes = ", ".join(str(list(scores.shape)) for scores in (o, r, x))
        raise InputError(f"original, without and candidate have shapes {shapes}; they must all be [N]")
    if not bool(torch.cat([o, r, x]).isfinite().all()):
        raise InputError("the scores are not all finite; take logit_confidence of predict_log")
    gap = o - r
    return float(gap @ (o - x) / (gap @ gap)) if bool(gap.any()) else None


def _shaped(original: Array, shadows: Array, candidate: Array) -> tuple[Tensor, Tensor, Tensor]:
    before, without, now = (torch.as_tensor(given) for given in (original, shadows, candidate))
    without = without[None] if without.ndim == 1 else without
    fits = before.ndim == 1 and before.shape == now.shape and without.ndim == 2 and without.shape[1] == len(now)
    if not fits or not without.numel():
        shapes = ", ".join(str(list(p.shape)) for p in (before, without, now))
        raise InputError(f"original, shadows and candidate have shapes {shapes}; they must be [N], [S, N] and [N]")
    return before, without, now
