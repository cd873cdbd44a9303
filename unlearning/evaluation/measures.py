"""What a model says and how far that is from a retrained one: accuracy, loss, distances of distributions, ToW.

Measured on three sets, forget, retain and test; the target is the retrained model's value, never 0. What needs more
than the answers has a file of its own and can be imported from here: attacks on the population (`attacks.py`), which
overstate privacy, on single samples (`likelihood.py`), to report where a claim is made, `position.py`,
`relearn.py` and `backdoor.py`.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedquit.errors import InputError
from fedquit.unlearning.evaluation.attacks import modified_entropy, svc_attack, threshold_attacks, yeom
from fedquit.unlearning.evaluation.backdoor import attack_success_rate
from fedquit.unlearning.evaluation.likelihood import auc, likelihood_ratios, logit_confidence, tpr_at_fpr
from fedquit.unlearning.evaluation.position import position
from fedquit.unlearning.evaluation.probabilities import Array, as_pair, as_probabilities, of_true_class
from fedquit.unlearning.evaluation.relearn import relearn
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.inference import logits

__all__ = [
    "accuracy",
    "activation_distance",
    "attack_success_rate",
    "auc",
    "group_accuracy",
    "js_divergence",
    "likelihood_ratios",
    "logit_confidence",
    "loss",
    "losses",
    "modified_entropy",
    "per_class_accuracy",
    "position",
    "predict",
    "predict_log",
    "relearn",
    "svc_attack",
    "threshold_attacks",
    "tow",
    "tpr_at_fpr",
    "worst_group",
    "yeom",
]


def predict_log(model: nn.Module, samples: Samples, batch_size: int = 512) -> Tensor:
    """Return the model's log-probabilities for each sample, float64 [N, C] on the CPU; the model is left as it was.

    >>> predict_log(nn.Identity(), Samples(torch.zeros(1, 2), torch.tensor([0])))
    tensor([[-0.6931, -0.6931]], dtype=torch.float64)
    """
    return logits(model, samples, batch_size).cpu().double().log_softmax(dim=1)


def predict(model: nn.Module, samples: Samples, batch_size: int = 512) -> Tensor:
    """Return the model's probabilities for each sample, float64 [N, C] on the CPU; the model is left as it was.

    >>> predict(nn.Identity(), Samples(torch.zeros(1, 2), torch.tensor([0])))
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    return predict_log(model, samples, batch_size).exp()


def accuracy(probabilities: Array, labels: Array) -> float:
    """Return the share of rows whose largest probability is at the label; of equal ones the first counts.

    >>> accuracy(torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([0, 1]))
    0.5
    """
    p, y = as_pair("accuracy", probabilities, labels)
    return (p.argmax(dim=1) == y).double().mean().item()


def per_class_accuracy(probabilities: Array, labels: Array) -> Tensor:
    """Return the accuracy of each class, [C]; NaN for a class without samples.

    >>> per_class_accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0]))
    tensor([0.5000,    nan], dtype=torch.float64)
    """
    p, y = as_pair("accuracy per class", probabilities, labels)
    right = y[p.argmax(dim=1) == y]
    return right.bincount(minlength=p.shape[1]).double() / y.bincount(minlength=p.shape[1]).double()


def group_accuracy(log_probabilities: Tensor, labels: Tensor, groups: Tensor) -> dict[int, float]:
    """Return the accuracy of each group that has samples, such as each client's; groups are whole numbers [N].

    >>> group_accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log(), torch.tensor([0, 0]), torch.tensor([3, 5]))
    {3: 1.0, 5: 0.0}
    """
    if not labels.shape == groups.shape == log_probabilities.shape[:1]:
        shapes = ", ".join(str(list(given.shape)) for given in (log_probabilities, labels, groups))
        raise InputError(f"log-probabilities, labels and groups have shapes {shapes}; they must be [N, C], [N] and [N]")
    right = (log_probabilities.argmax(dim=1) == labels).double()
    found, place, sizes = torch.unique(groups, return_inverse=True, return_counts=True)  # one pass for all groups
    shares = torch.zeros(len(found), dtype=torch.float64).index_add_(0, place, right) / sizes
    return dict(zip(found.tolist(), shares.tolist(), strict=True))


def worst_group(accuracies: Mapping[int, float]) -> tuple[int, float]:
    """Return the group of lowest accuracy, and that; of equal ones the first.

    >>> worst_group({0: 0.9, 1: 0.5, 2: 0.7})
    (1, 0.5)
    """
    if not accuracies:
        raise InputError("there are no groups; at least 1 is needed")
    return min(accuracies.items(), key=lambda item: item[1])


def losses(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each sample, in nats, [N]; from `predict_log`, so exact however sure the model is.

    >>> losses(torch.tensor([[-1000.0, 0.0]]), torch.tensor([0]))
    tensor([1000.])
    """
    return -of_true_class(log_probabilities, labels)


def loss(probabilities: Array, labels: Array) -> float:
    """Return the mean cross-entropy in nats.

    A probability that underflowed to 0 counts as the smallest normal float64 (so at most 708 nats a sample); where that
    matters, use `losses` of `predict_log`.

    >>> round(loss(torch.tensor([[0.5, 0.5]]), torch.tensor([0])), 4)
    0.6931
    """
    p, y = as_pair("loss", probabilities, labels)
    return float(losses(p.clamp(min=torch.finfo(torch.float64).tiny).log(), y).mean())


def js_divergence(p: Array, q: Array) -> float:
    """Return the Jensen-Shannon divergence `KL(p||m)/2 + KL(q||m)/2`, `m = (p+q)/2`, mean over rows, in nats.

    Symmetric, 0 for equal rows, at most ln 2. Both are probabilities [N, C].

    >>> round(js_divergence(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])), 4)
    0.6931
    """
    a, b = _both(p, q)
    middle = (a + b) / 2
    safe = middle.masked_fill(middle == 0, 1)
    rows = (torch.xlogy(a, a / safe) + torch.xlogy(b, b / safe)).sum(dim=1) / 2
    return rows.clamp(min=0).mean().item()


def activation_distance(p: Array, q: Array) -> float:
    """Return the Euclidean distance of the probabilities, mean over rows; both [N, C].

    >>> round(activation_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])), 4)
    1.4142
    """
    a, b = _both(p, q)
    return float(torch.linalg.vector_norm(a - b, dim=1).mean())


def tow(*gaps: float) -> float:
    """Return the tug of war `prod (1 - |gap|)` over the accuracy gaps to retraining on forget, retain and test.

    One number, 1 is best. Source: arXiv 2406.01257.

    >>> round(tow(0.1, -0.1, 0.0), 2)
    0.81
    """
    for gap in gaps:
        if not abs(gap) <= 1:
            raise InputError(f"the gap is {gap}; accuracies are shares, so it must be between -1 and 1")
    return math.prod(1 - abs(gap) for gap in gaps)


def _both(p: Array, q: Array) -> tuple[Tensor, Tensor]:
    a, b = as_probabilities("probabilities p", p), as_probabilities("probabilities q", q)
    if a.shape != b.shape:
        raise InputError(f"p and q have shapes {list(a.shape)} and {list(b.shape)}; they must be the same")
    return a, b
