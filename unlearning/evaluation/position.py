"""Where a model stands between the one before forgetting (0) and models retrained without the samples (1): OURS.

Each sample to forget has a score, its logit confidence. The line from the original's scores to the retrained models'
weighs each sample by how much retraining changes its score, so one number combines all that separates the two.
Retrained models are not at exactly 1; each is placed relative to the others, and their spread is the noise of the
position.
"""

import torch
from torch import Tensor

from fedquit.errors import InputError
from fedquit.unlearning.evaluation.prediction_interval import Prediction, predict_one_more
from fedquit.unlearning.evaluation.probabilities import Array


def position(original: Array, without: Array, candidate: Array) -> float | None:
    """Return where the candidate stands between the original (0) and a model without the samples (1).

    `sum_i g_i (o_i - x_i) / sum_i g_i^2` with `g_i = o_i - r_i`: the least-squares place of the candidate's scores x on
    the line from the original's o to the retrained model's r. A sample's weight is how much retraining changes it; one
    that retraining does not change has none. None if no sample changes.

    Args:
        original: a score of each sample [N], such as `logit_confidence`, by the model before forgetting.
        without: the same by a retrained or shadow model, or the mean of several.
        candidate: the same by the model under test.

    >>> position(torch.tensor([4.0, 2.0]), torch.tensor([0.0, 2.0]), torch.tensor([1.0, 9.0]))
    0.75
    """
    o, r, x = (_scores(given) for given in (original, without, candidate))
    if o.ndim != 1 or not o.shape == r.shape == x.shape:
        shapes = ", ".join(str(list(scores.shape)) for scores in (o, r, x))
        raise InputError(f"original, without and candidate have shapes {shapes}; they must all be [N]")
    gap = o - r
    return float(gap @ (o - x) / (gap @ gap)) if bool(gap.any()) else None


def predict_position(original: Array, retrained: Array) -> Prediction | None:
    """Return the predicted position of one more retrained model, from those given; None if no sample changes.

    With m the mean of the k retrained models' scores and `g = o - m`, a model x stands at `1 - g.(x - m) / g.g`. For a
    model that is one of the k, m would be partly its own, so model j is measured by the others' mean m_j and their line
    `g_j = o - m_j`. Since `r_j - m_j = (r_j - m) k/(k-1)`, `(k-1)/k g_j.(r_j - m_j)` has the spread of a single model.

    Args:
        original: a score of each sample [N].
        retrained: the same by at least three models [k, N].

    >>> original, retrained = torch.tensor([4.0, 2.0]), torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.0, -1.0]])
    >>> round(predict_position(original, retrained).mean, 2)
    0.97
    """
    o, r = _scores(original), _scores(retrained)
    if r.ndim != 2 or o.shape != r.shape[1:] or len(r) < 3:
        shapes = f"{list(o.shape)} and {list(r.shape)}"
        raise InputError(f"original and retrained have shapes {shapes}; they must be [N] and [k, N], k > 2")
    count = len(r)
    others = (r.sum(dim=0) - r) / (count - 1)
    gap = o - r.mean(dim=0)
    if not bool(gap.any()):
        return None
    own = ((o - others) * (r - others)).sum(dim=1) * (count - 1) / count
    return predict_one_more((1 - own / (gap @ gap)).tolist())


def _scores(given: Array) -> Tensor:
    scores = torch.as_tensor(given).detach().cpu().double()
    if not bool(scores.isfinite().all()):
        raise InputError("the scores are not all finite; take logit_confidence of predict_log")
    return scores
