"""Losses that pull a student towards a virtual teacher: how far is `softmax(logits / tau)` from the target `p`?

FedQUIT uses the Kullback-Leibler divergence and ablates the others (arXiv 2408.07587). The target is given as
log-probabilities and the arithmetic stays in log space, so a class of probability e^-1000 still counts, and a class
of probability exactly 0 (-inf) costs nothing and breaks nothing. No gradient flows into the target.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss

from fedquit.errors import InputError, unknown


def kl(log_target: Tensor, log_student: Tensor, clip: float | None = None) -> Tensor:
    """Return KL(target || student), summed over classes, mean over the batch.

    Args:
        log_target: log-probabilities [B, C]; -inf allowed.
        log_student: finite log-probabilities [B, C].
        clip: repeat the paper's Keras loss: both distributions are raised to at least `clip` (not renormalised), and no
            gradient flows through a raised student probability. The cost: a sample that the model is sure of, say by 25
            logits, has every other class raised, gets next to no gradient and is not forgotten.

    >>> kl(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log())
    tensor(0.1438)
    """
    if clip is not None:
        log_target, log_student = log_target.clamp(min=math.log(clip)), log_student.clamp(min=math.log(clip))
    return kl_each(log_target, log_student).mean()


def kl_each(log_target: Tensor, log_student: Tensor) -> Tensor:
    """Return KL(target || student) of each sample [B]; see `kl`.

    >>> kl_each(torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log(), torch.tensor([[0.25, 0.75], [1.0, 0.0]]).log().clamp(-9))
    tensor([0.1438, 0.0000])
    """
    finite = log_target.masked_fill(log_target == -math.inf, 0.0)  # its factor is exactly 0: 0 log 0 = 0
    return (log_target.exp() * (finite - log_student)).sum(dim=1)


def ce(log_target: Tensor, log_student: Tensor) -> Tensor:
    """Return the cross-entropy `-sum_c p_c log q_c`, mean over the batch: KL plus a constant, the same gradient.

    >>> ce(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.5, 0.5]]).log())
    tensor(0.6931)
    """
    return -(log_target.exp() * log_student).sum(dim=1).mean()


def mse(log_target: Tensor, log_student: Tensor) -> Tensor:
    """Return the squared difference of the probabilities, mean over classes and batch.

    >>> mse(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.5, 0.5]]).log())
    tensor(0.2500)
    """
    return mse_loss(log_student.exp(), log_target.exp())


def cosine(log_target: Tensor, log_student: Tensor) -> Tensor:
    """Return 1 - cosine of the two probability vectors, mean over the batch.

    >>> cosine(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.5, 0.5]]).log())
    tensor(0.2929)
    """
    return (1 - cosine_similarity(log_student.exp(), log_target.exp(), dim=1)).mean()


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"kl": kl, "ce": ce, "mse": mse, "cosine": cosine}


def distance(
    name: str,
    log_target: Tensor,
    student_logits: Tensor,
    temperature: float,
    tau_squared: bool = False,
    clip: float | None = None,
) -> Tensor:
    """Return the loss `name` between the target and `softmax(student_logits / temperature)`, a scalar.

    Args:
        name: a name in `DISTANCES`.
        log_target: log-probabilities [B, C], B >= 1; -inf where the probability is 0.
        student_logits: finite logits [B, C], where the gradient goes.
        temperature: tau > 0, the one the target was made with.
        tau_squared: multiply by tau^2, so the gradient's size does not depend on tau (Hinton et al., arXiv 1503.02531).
        clip: see `kl`, the only loss that takes it.

    Raises:
        InputError: an unknown name, shapes that differ, an empty batch, or a setting out of range.

    >>> distance("kl", torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.0, 0.0]]), temperature=1.0)
    tensor(0.)
    """
    if name not in DISTANCES:
        raise unknown("loss", name, DISTANCES)
    if log_target.shape != student_logits.shape or log_target.ndim != 2 or not len(log_target):
        shapes = f"{list(log_target.shape)} and {list(student_logits.shape)}"
        raise InputError(f"target and student have shapes {shapes}; both must be [B, C] with B >= 1")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise InputError(f"temperature is {temperature}; it must be a finite number above 0")
    check_clip(name, clip)
    log_student = torch.log_softmax(student_logits / temperature, dim=1)
    log_target = log_target.detach()
    loss = DISTANCES[name](log_target, log_student) if clip is None else kl(log_target, log_student, clip)
    return loss * temperature**2 if tau_squared else loss


def check_clip(name: str, clip: float | None) -> None:
    """Refuse a `clip` out of range, or with a loss that takes none.

    >>> check_clip("kl", 1e-7)
    """
    if clip is not None and name != "kl":
        raise InputError(f"clip is {clip}, but loss '{name}' takes none; only 'kl' does")
    if clip is not None and not 0 < clip < 1:
        raise InputError(f"clip is {clip}; it must be above 0 and below 1")
