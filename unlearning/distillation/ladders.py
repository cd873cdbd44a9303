"""Virtual teachers that rewrite the other classes as well, and keep their exponential mass.

With `S = sum_{c != y} exp(z_c)`, lowering the true class to `v = min_c z_c` fixes its probability `e^v / (e^v + S)`.
These four decide how the rest is spread: evenly, by the best few, or by rank alone, so less and less of what the
model knew about the sample is handed to the student. Each keeps S. The work is done in float64 and in log space.
Source: FedQUIT, arXiv 2408.07587, ablations of the virtual teacher.

Equal logits are ranked by class index, the lower index first, so the same logits give the same target everywhere.
"""

import math

import torch
from torch import Tensor

from fedquit.unlearning.distillation.teachers import Query, soften, teacher

NEWTON_STEPS = 64  # each step at least halves the error, then squares it; ten are plenty


def places(logits: Tensor, true: Tensor) -> Tensor:
    """Return the place of each class among the others [B, C]: 0 is the best; the true class comes last, at C-1.

    >>> places(torch.tensor([[9.0, 1.0, 5.0]]), torch.tensor([[True, False, False]]))
    tensor([[2, 1, 0]])
    """
    order = logits.masked_fill(true, -math.inf).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1)


def log_mass(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return log sum exp of the chosen classes, [B, 1]; -inf where none is chosen.

    >>> log_mass(torch.tensor([[0.0, 0.0, 7.0]]), torch.tensor([[True, True, False]]))
    tensor([[0.6931]])
    """
    return logits.masked_fill(~chosen, -math.inf).logsumexp(dim=1, keepdim=True)


def ladder_step(log_total: Tensor, rungs: int) -> Tensor:
    """Solve `sum_{r=0}^{rungs-1} exp(step * r) = exp(log_total)` for step >= 0.

    The logarithm of the sum is convex and rising in `step`, and lies above the target at `log_total / (rungs - 1)`;
    Newton's method from there falls to the root and cannot overshoot it.

    Args:
        log_total: float64 [B, 1], each at least log(rungs) up to rounding.
        rungs: at least 2.

    >>> ladder_step(torch.tensor([[7.0]]).double().log(), 3).exp()  # 1 + 2 + 4
    tensor([[2.]], dtype=torch.float64)
    """
    rank = torch.arange(rungs, dtype=log_total.dtype, device=log_total.device)
    step = log_total / (rungs - 1)
    for _ in range(NEWTON_STEPS):
        reached = (step * rank).logsumexp(dim=1, keepdim=True)
        slope = ((step * rank).softmax(dim=1) * rank).sum(dim=1, keepdim=True)
        move = (reached - log_total) / slope
        step = (step - move).clamp(min=0)
        if not (move.abs() > 1e-14 * (1 + step)).any():
            break
    return step


@teacher("flatten")
def flatten(query: Query) -> Tensor:
    """`v = min`; every other class gets their log-mean-exp. tau softens z'; S is that of the untempered logits.

    >>> query = Query(torch.tensor([[4.0, 0.0, 2.0]]), torch.tensor([[True, False, False]]))
    >>> flatten(query).exp()
    tensor([[0.1065, 0.4467, 0.4467]], dtype=torch.float64)
    """
    z = query.logits.double()
    level = log_mass(z, ~query.true) - math.log(z.shape[1] - 1)
    return soften(torch.where(query.true, query.minimum.double(), level), query.temperature)


@teacher("topk")
def topk(query: Query) -> Tensor:
    """`v = min`; the `top_k` largest others stay, the rest share their log-mean-exp. tau softens z'.

    With `top_k >= C - 1` nothing is left to share, and this is `min`.

    >>> query = Query(torch.tensor([[4.0, 0.0, 2.0]]), torch.tensor([[True, False, False]]), top_k=1)
    >>> topk(query).exp()
    tensor([[0.1065, 0.1065, 0.7870]], dtype=torch.float64)
    """
    z = query.logits.double()
    rest = (places(z, query.true) >= query.top_k) & ~query.true
    level = log_mass(z, rest) - math.log(max(z.shape[1] - 1 - query.top_k, 1))
    return soften(torch.where(query.true, query.minimum.double(), torch.where(rest, level, z)), query.temperature)


@teacher("logit-ladder")
def logit_ladder(query: Query) -> Tensor:
    """`v = min`; the others climb in equal logit steps by rank: `z_(r) = v + lambda r`, the worst at v. tau softens z'.

    lambda is set by S (`ladder_step`). With two classes there is no rank: the one other class keeps its logit.

    >>> query = Query(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[True, False, False]]))
    >>> logit_ladder(query).exp()  # 1 + e^2 = 1 + e^lambda
    tensor([[0.1065, 0.1065, 0.7870]], dtype=torch.float64)
    """
    z, low, rungs = query.logits.double(), query.minimum.double(), query.logits.shape[1] - 1
    if rungs > 1:
        step = ladder_step(log_mass(z, ~query.true) - low, rungs)
        z = low + step * (rungs - 1 - places(z, query.true))
    return soften(torch.where(query.true, low, z), query.temperature)


@teacher("probability-ladder")
def probability_ladder(query: Query) -> Tensor:
    """`p_y = e^v / (e^v + S)`, `v = min`; the others climb in equal steps of probability: `q_r = p_y + r Delta`.

    `Delta = 2 (1 - (M + 1) p_y) / (M (M - 1))`, M = C - 1, clamped at 0. Built on the tempered logits `z / tau`, v and
    S included. With two classes the one other class has what is left, 1 - p_y.

    >>> query = Query(torch.tensor([[0.0, 0.0, 2.0, 1.0]]), torch.tensor([[True, False, False, False]]))
    >>> probability_ladder(query).exp()
    tensor([[0.0826, 0.0826, 0.5290, 0.3058]], dtype=torch.float64)
    """
    z, rungs = query.logits.double() / query.temperature, query.logits.shape[1] - 1
    low = z.where(~query.true, z.amin(dim=1, keepdim=True)).log_softmax(dim=1)
    if rungs == 1:
        return low
    log_p = low.amin(dim=1, keepdim=True)
    delta = (2 * (1 - (rungs + 1) * log_p.exp()) / (rungs * (rungs - 1))).clamp(min=0)
    rank = (rungs - 1 - places(z, query.true)).clamp(min=0)
    return torch.logaddexp(log_p, (rank * delta).log())
