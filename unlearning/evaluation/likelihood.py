"""Membership of single samples: is this model's answer like those of models that had the sample, or that never did?

Attacks on the population (`attacks.py`) ask about the average sample and overstate privacy: a method can pass them and
leave the odd samples, the ones worth attacking, in place. Where a claim of forgetting is made, report this one. For
each sample, Gaussians are fitted to the confidences of shadow models with and without it, and the candidate's
confidence is held against both. Sources: Carlini et al., arXiv 2112.03570 (LiRA); Hayes et al., arXiv 2403.01218
(U-LiRA: shadow models "in" were trained on the sample and then forgot it by the method that is evaluated, models "out"
never had it); arXiv 2506.13009 (RULI). With shadows "in" that did not forget it is plain LiRA: weaker against a method
that pushes the confidence below that of a model without the sample.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedquit.errors import InputError
from fedquit.unlearning.evaluation.probabilities import Array, of_true_class

FEW = 64  # with fewer shadow models a variance per sample is mostly noise: one for all samples is used
VARIANCE_FLOOR = 1e-4  # a standard deviation of 0.01 in the logit: shadows that agree closer than that prove nothing


@dataclass(frozen=True, slots=True)
class Power:
    """A true-positive rate, or None and the reason why it cannot be known."""

    value: float | None
    reason: str = ""


def logit_confidence(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return `log p_y - log(1 - p_y)` of each row, [N]; near Gaussian over retrained models.

    `1 - p_y` is summed over the other classes in log space, so nothing is lost where the model is sure.

    Args:
        log_probabilities: float [N, C], C >= 2, from `predict_log`.
        labels: int64 [N].

    >>> logit_confidence(torch.tensor([[0.0, -1000.0]]), torch.tensor([0]))
    tensor([1000.])
    """
    if log_probabilities.ndim != 2 or log_probabilities.shape[1] < 2:
        raise InputError(
            f"log-probabilities have shape {list(log_probabilities.shape)}; they must be [N, C] with C >= 2"
        )
    true = torch.nn.functional.one_hot(labels, log_probabilities.shape[1]).bool()
    others = log_probabilities.masked_fill(true, -math.inf).logsumexp(dim=1)
    return of_true_class(log_probabilities, labels) - others


def likelihood_ratios(
    shadows_in: Array,
    shadows_out: Array,
    candidate: Array,
    *,
    pooled: bool | None = None,
    variance_floor: float = VARIANCE_FLOOR,
) -> Tensor:
    """Return `log N(x; in) - log N(x; out)` of each sample, float64 [N]: above 0 speaks for "had it".

    Args:
        shadows_in: logit confidences [S_in, N] of shadow models that had the sample; NaN where a model says nothing.
        shadows_out: the same [S_out, N] of models that never had it.
        candidate: those of the model under test [N].
        pooled: one variance over all samples (of the deviations from each sample's own mean) instead of one each; None:
            if a sample has fewer than `FEW` models on either side.
        variance_floor: no variance is taken to be smaller.

    Raises:
        InputError: a sample has fewer than two shadow models on a side (no variance without two), or shapes differ.

    >>> shadows_in, shadows_out = torch.tensor([[2.0], [4.0]]), torch.tensor([[-1.0], [1.0]])
    >>> likelihood_ratios(shadows_in, shadows_out, torch.tensor([3.0]))
    tensor([2.2500], dtype=torch.float64)
    """
    x = torch.as_tensor(candidate).detach().cpu().double()
    sides = [_checked(name, given, x) for name, given in (("in", shadows_in), ("out", shadows_out))]
    if pooled is None:
        pooled = any(bool((~side.isnan()).sum(dim=0).min() < FEW) for side in sides)
    inside, outside = (_log_normal(x, *_fit(side, pooled=pooled, floor=variance_floor)) for side in sides)
    return inside - outside


def _checked(name: str, given: Array, candidate: Tensor) -> Tensor:
    side = torch.as_tensor(given).detach().cpu().double()
    if candidate.ndim != 1 or not len(candidate) or side.ndim != 2 or side.shape[1] != len(candidate):
        shapes = f"{list(side.shape)} and {list(candidate.shape)}"
        raise InputError(f"shadows {name} and candidate have shapes {shapes}; they must be [S, N] and [N] with N >= 1")
    if bool(side.isinf().any()) or not bool(candidate.isfinite().all()):
        raise InputError(f"shadows {name} or candidate are not finite; take logit_confidence of predict_log")
    fewest = int((~side.isnan()).sum(dim=0).min())
    if fewest < 2:
        raise InputError(f"a sample has {fewest} shadow model(s) {name}; at least 2 are needed")
    return side


def _fit(side: Tensor, *, pooled: bool, floor: float) -> tuple[Tensor, Tensor]:
    """Return mean [N] and unbiased variance [N] over the models that say something."""
    counts = (~side.isnan()).sum(dim=0).double()
    mean = side.nanmean(dim=0)
    squares = ((side - mean) ** 2).nansum(dim=0)
    variance = (squares.sum() / (counts - 1).sum()).expand_as(mean) if pooled else squares / (counts - 1)
    return mean, variance.clamp(min=floor)


def _log_normal(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return -((x - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi)) / 2


def tpr_at_fpr(member_scores: Array, nonmember_scores: Array, fpr: float) -> Power:
    """Return the share of members that score above all but a share `fpr` of the non-members.

    Equal scores stand or fall together: a threshold that lets one of them through lets all through. With fewer than
    `1/fpr` non-members a single one is already more than `fpr`, so the rate is not known.

    Args:
        member_scores: [N], the higher, the more like a member.
        nonmember_scores: [M].
        fpr: the share of non-members that may be called members.

    >>> tpr_at_fpr(torch.tensor([3.0, 1.0]), torch.arange(4) / 2, 0.25)
    Power(value=0.5, reason='')
    >>> tpr_at_fpr(torch.tensor([3.0, 1.0]), torch.arange(4) / 2, 0.01)
    Power(value=None, reason='4 non-members are too few for a false-positive rate of 0.01; at least 100 are needed')
    """
    if not 0 < fpr < 1:
        raise InputError(f"fpr is {fpr}; it must be between 0 and 1")
    members, others = _scores("member scores", member_scores), _scores("non-member scores", nonmember_scores)
    allowed = int((torch.arange(1, len(others) + 1).double() / len(others) <= fpr).sum())
    if not allowed:
        text = f"{len(others)} non-members are too few for a false-positive rate of {fpr:g}"
        return Power(None, f"{text}; at least {math.ceil(round(1 / fpr, 6))} are needed")
    limit = others.sort(descending=True).values[allowed]
    return Power((members > limit).double().mean().item())


def auc(member_scores: Array, nonmember_scores: Array) -> float:
    """Return the chance that a member scores above a non-member, ties counting half: 0.5 is guessing.

    >>> auc(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]))
    0.875
    """
    members, others = _scores("member scores", member_scores), _scores("non-member scores", nonmember_scores)
    others = others.sort().values
    wins = torch.searchsorted(others, members) + torch.searchsorted(others, members, right=True)
    return int(wins.sum()) / (2 * len(members) * len(others))


def _scores(what: str, given: Array) -> Tensor:
    scores = torch.as_tensor(given).detach().cpu().double()
    if scores.ndim != 1 or not len(scores) or bool(scores.isnan().any()):
        raise InputError(f"{what} have shape {list(scores.shape)} or hold NaN; they must be numbers [N] with N >= 1")
    return scores
