"""Samples that a model memorised, apart from those it would have known anyway: how much of what it memorised is left.

A sample is memorised as far as the model answers better because it was trained on it. With p_y the probability of the
true class,

    mem_i = mean p_y(x_i) of models with sample i  -  mean p_y(x_i) of models without it,

Feldman's memorisation score (arXiv 1906.05271) with p_y for the chance of a right answer, as a few models
say more by their probability than by being right. Samples with `mem_i >= 0.25`, the threshold of Feldman and Zhang
(arXiv 2008.03703), are the memorised group M. To judge that group apart from the others is the idea of Grouped
Memorization Evaluation (arXiv 2605.24545); the statistic is OURS:

    remaining(x) = sum_{i in M} (x_i - r_i) / sum_{i in M} (o_i - r_i),

with x_i, o_i and r_i the probabilities of the candidate, of the model before forgetting and of the models without: 1
where all that was memorised is there, 0 on average for a model that never saw the samples.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedquit.errors import InputError
from fedquit.unlearning.evaluation.prediction_interval import Prediction, predict_one_more
from fedquit.unlearning.evaluation.probabilities import Array

MEMORISED = 0.25


def memorisation(trained_with: Array, trained_without: Array) -> Tensor:
    """Return each sample's memorisation score, float64 [N], from -1 to 1.

    Args:
        trained_with: logit confidences of models that were trained on the samples [N] or [S, N].
        trained_without: the same of models that were not.

    >>> memorisation(torch.tensor([0.0, 100.0]), torch.tensor([[0.0, -100.0], [0.0, 0.0]]))
    tensor([0.0000, 0.7500], dtype=torch.float64)
    """
    known, unknown = _probabilities(trained_with), _probabilities(trained_without)
    if known.shape[1] != unknown.shape[1]:
        raise InputError(f"trained_with is about {known.shape[1]} samples and trained_without about {unknown.shape[1]}")
    return known.mean(dim=0) - unknown.mean(dim=0)


def remaining_share(trained_with: Array, trained_without: Array, candidate: Array) -> float | None:
    """Return how much of what was memorised is left in a candidate; None if no sample was memorised.

    Args:
        trained_with: see `memorisation`.
        trained_without: see `memorisation`.
        candidate: logit confidences of the model under test [N].

    >>> trained_with, trained_without = torch.tensor([0.0, 100.0]), torch.tensor([0.0, -100.0])
    >>> half_way = torch.tensor([5.0, 0.0])
    >>> [remaining_share(trained_with, trained_without, model) for model in (trained_with, half_way)]
    [1.0, 0.5]
    """
    known, unknown, x = (_probabilities(given).mean(dim=0) for given in (trained_with, trained_without, candidate))
    group = memorisation(trained_with, trained_without) >= MEMORISED
    if not bool(group.any()):
        return None
    return float((x - unknown)[group].sum() / (known - unknown)[group].sum())


def predict_remaining(trained_with: Array, trained_without: Array) -> Prediction | None:
    """Return how much is expected to be left in one more model without the samples; None if that cannot be said.

    The group and the mean are chosen by the models without, and a model that took part in that would look better than
    a new one. So each of the k models is measured by the others, which choose the group without it. It is then off
    from a mean of k - 1 models, whose spread is `k/(k-1)` of that of a single one.

    Args:
        trained_with: see `memorisation`.
        trained_without: of at least three models [k, N].

    >>> trained_without = torch.tensor([[-3.0, -3.0], [-2.0, -2.0], [-2.5, -2.5]])
    >>> predicted = predict_remaining(torch.tensor([9.0, 9.0]), trained_without)
    >>> abs(round(predicted.mean, 2)), predicted.count
    (0.0, 3)
    """
    models = torch.as_tensor(trained_without)
    if models.ndim != 2 or len(models) < 3:
        raise InputError(f"trained_without has shape {list(models.shape)}; it must be [k, N] with k > 2")
    count, found = len(models), []
    for number in range(count):
        others = torch.cat([models[:number], models[number + 1 :]])
        own = remaining_share(trained_with, others, models[number])
        if own is None:
            return None
        found.append(own * (count - 1) / count)
    return predict_one_more(found)


def grouped(trained_with: Array, trained_without: Array, candidate: Array) -> dict[str, Mapping[str, Any]]:
    """Return for the memorised and for the other samples their number and the mean probabilities of the true class.

    >>> trained_with, trained_without = torch.tensor([0.0, 100.0]), torch.tensor([0.0, -1000.0])
    >>> grouped(trained_with, trained_without, torch.tensor([0.0, 0.0]))["memorised"]
    {'samples': 1, 'before': 1.0, 'retrained': 0.0, 'candidate': 0.5}
    """
    group = memorisation(trained_with, trained_without) >= MEMORISED
    models = {"before": trained_with, "retrained": trained_without, "candidate": candidate}
    means = {name: _probabilities(given).mean(dim=0) for name, given in models.items()}
    return {
        name: {
            "samples": int(members.sum()),
            **{each: float(values[members].mean()) if bool(members.any()) else None for each, values in means.items()},
        }
        for name, members in (("memorised", group), ("others", ~group))
    }


def _probabilities(given: Array) -> Tensor:
    """Return probabilities [S, N] of logit confidences, one model as one row."""
    scores = torch.as_tensor(given).detach().cpu().double()
    if not bool(scores.isfinite().all()):
        raise InputError("the scores are not all finite; take logit_confidence of predict_log")
    return scores.sigmoid().reshape(-1, scores.shape[-1])
