"""Virtual teachers: what a model should have said about a sample, had it never learned that sample's true class.

A virtual teacher is no second network. It takes the logits `z` of the global model for a sample to forget, lowers the
true class `y`, and hands the result to the student as its target `p`. The variants differ only in what they do with
the true class and with the others. Source: FedQUIT, arXiv 2408.07587; the four that rewrite the other classes as well
are in `ladders.py`.

Temperature. The variants on logits build `z'` from the untempered `z`, and `p = softmax(z' / tau)`. The variants on
probabilities temper first, `softmax(z / tau)`, and shift after: shifted probabilities are final.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fedquit.errors import InputError, unknown


@dataclass(frozen=True, slots=True)
class Query:
    """What a teacher is asked: finite logits [B, C], the mask of the true class [B, C], and the settings."""

    logits: Tensor
    true: Tensor
    temperature: float = 1.0
    value: float = 0.0
    top_k: int = 5

    @property
    def minimum(self) -> Tensor:
        """The lowest logit of each row [B, 1], the true class included."""
        return self.logits.amin(dim=1, keepdim=True)


Teacher = Callable[[Query], Tensor]
TEACHERS: dict[str, Teacher] = {}
"""Every virtual teacher by name."""


def teacher(name: str) -> Callable[[Teacher], Teacher]:
    """Register a function from a `Query` to log-probabilities [B, C] as the variant `name`.

    >>> "min" in TEACHERS
    True
    """

    def register(function: Teacher) -> Teacher:
        TEACHERS[name] = function
        return function

    return register


def virtual_teacher(
    logits: Tensor,
    labels: Tensor,
    variant: str = "min",
    temperature: float = 1.0,
    value: float | None = None,
    top_k: int = 5,
) -> Tensor:
    """Return the log-probabilities that a student should imitate in order to forget `labels`.

    Args:
        logits: what the global model says, [B, C], finite, C >= 2; no gradient flows into them.
        labels: the true classes, [B], integers in 0..C-1.
        variant: a name in `TEACHERS`.
        temperature: tau > 0; how each variant uses it is said in this module's docstring.
        value: the true class's new logit, for `fixed` only (0.0 if not given).
        top_k: how many of the other classes `topk` leaves as they are.

    Returns:
        Log-probabilities [B, C] in the dtype of `logits`; -inf only where the probability is exactly 0.

    Raises:
        InputError: a shape, a label, a setting or a logit cannot be used.

    Source: arXiv 2408.07587, the virtual teacher (`min`) and its ablations.

    >>> virtual_teacher(torch.tensor([[3.0, 1.0, 1.0]]), torch.tensor([0])).exp()
    tensor([[0.3333, 0.3333, 0.3333]])
    """
    function = TEACHERS.get(variant)
    if function is None:
        raise unknown("teacher", variant, TEACHERS)
    _check_settings(variant, temperature, value, top_k)
    _check_tensors(logits, labels, temperature)
    given = logits.detach()
    given = given.cpu() if given.device.type == "mps" else given  # Apple's GPU has no float64
    true = one_hot(labels.to(given.device, torch.int64), logits.shape[1]).bool()
    return function(Query(given, true, temperature, value or 0.0, top_k)).to(logits)


def _check_settings(variant: str, temperature: float, value: float | None, top_k: int) -> None:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise InputError(f"temperature is {temperature}; it must be a finite number above 0")
    if value is not None and variant != "fixed":
        raise InputError(f"value is {value}, but teacher '{variant}' takes none; only 'fixed' does")
    if value is not None and not math.isfinite(value):
        raise InputError(f"value is {value}; it must be a finite number")
    if top_k < 1:
        raise InputError(f"top_k is {top_k}; it must be at least 1")


def _check_tensors(logits: Tensor, labels: Tensor, temperature: float) -> None:
    if logits.ndim != 2 or not logits.is_floating_point():
        raise InputError(f"logits are {logits.dtype} {list(logits.shape)}; they must be floats of shape [B, C]")
    if logits.shape[1] < 2:
        raise InputError(f"logits have {logits.shape[1]} class; a teacher needs at least 2")
    if labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise InputError(f"labels are {labels.dtype} {list(labels.shape)}; they must be integers [{len(logits)}]")
    if not (logits / temperature).isfinite().all():
        raise InputError(f"logits hold NaN or infinite values (at temperature {temperature}): the model is broken")
    if bool(((labels < 0) | (labels >= logits.shape[1])).any()):
        raise InputError(f"labels reach {int(labels.min())}..{int(labels.max())}; valid: 0..{logits.shape[1] - 1}")


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Return log softmax(logits / temperature) over the classes, [B, C].

    >>> soften(torch.tensor([[1e4, 1e4]]), 2.0)
    tensor([[-0.6931, -0.6931]])
    """
    return (logits / temperature).log_softmax(dim=1)


@teacher("min")
def _minimum(query: Query) -> Tensor:
    """`z'_y = min_c z_c`: a sample whose true class is lowest already is left exactly as it is. tau softens z'."""
    return soften(query.logits.where(~query.true, query.minimum), query.temperature)


@teacher("fixed")
def _fixed(query: Query) -> Tensor:
    """`z'_y = value`, the same for every sample. tau softens z', the value included."""
    return soften(query.logits.masked_fill(query.true, query.value), query.temperature)


@teacher("entropy")
def _entropy(query: Query) -> Tensor:
    """`z'_y = sum_{c != y} q_c z_c`, `q = softmax(z / tau)` over c != y: the most uncertain p at this tau."""
    others = query.logits.masked_fill(query.true, -math.inf)
    top = others.amax(dim=1, keepdim=True)
    weights = soften(others, query.temperature).exp()
    level = top + (weights * (query.logits - top)).sum(dim=1, keepdim=True)
    return soften(query.logits.where(~query.true, level), query.temperature)


@teacher("incompetent")
def _incompetent(query: Query) -> Tensor:
    """`p = 1/C`: knows nothing. tau changes nothing."""
    return torch.full_like(query.logits, -math.log(query.logits.shape[1]))


@teacher("softmax-shift")
def _softmax_shift(query: Query) -> Tensor:
    """`p_y = 1/C`, its excess shared equally by the others, after tempering.

    Below chance the excess is negative and the others pay it. One that cannot pay goes to 0 and the rest are scaled
    to sum to 1 - 1/C, so `p_y` is 1/C in every row.
    """
    classes = query.logits.shape[1]
    p = soften(query.logits.double(), query.temperature).exp()
    excess = (p * query.true).sum(dim=1, keepdim=True) - 1 / classes
    others = (p + excess / (classes - 1)).clamp(min=0).masked_fill(query.true, 0)
    others *= (1 - 1 / classes) / others.sum(dim=1, keepdim=True)
    return others.masked_fill(query.true, 1 / classes).log()


@teacher("softmax-zero")
def _softmax_zero(query: Query) -> Tensor:
    """`p_y = 0` exactly (so -inf), its mass shared equally by the others, after tempering."""
    log_p = soften(query.logits.double(), query.temperature)
    share = log_p.masked_fill(~query.true, -math.inf).amax(dim=1, keepdim=True) - math.log(log_p.shape[1] - 1)
    return torch.logaddexp(log_p, share).masked_fill(query.true, -math.inf)
