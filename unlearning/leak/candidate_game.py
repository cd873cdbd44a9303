"""The game: two candidates are equally likely, one was forgotten; which? 0.5 is guessing.

It measures the smallest possible leak, one bit: a model that leaks nothing passes it, whereas a reconstruction may fail
although something leaks. The attacker knows everything except the samples: model, method, settings.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fedquit.errors import InputError
from fedquit.unlearning.evaluation.likelihood import auc


@dataclass(frozen=True, slots=True)
class GameResult:
    """The outcome of a game: area under the ROC curve, its 95 % interval, and how many of each kind it rests on."""

    auc: float
    low: float
    high: float
    games: int

    @property
    def is_chance(self) -> bool:
        """Whether guessing explains it."""
        return self.low <= 0.5 <= self.high


def play(scores: Sequence[tuple[float, float]]) -> GameResult:
    """Return the area for games, each with the score of the candidate that was forgotten and that of the other.

    Candidates are put first and second in turns. What decides a game is the score of the first minus that of the
    second, and the area is the chance that it is larger where the first was forgotten than where the second was.

    Raises:
        InputError: fewer than two games.

    >>> play([(1.0, 0.0)] * 20)
    GameResult(auc=1.0, low=0.8..., high=1.0, games=20)
    """
    if len(scores) < 2:
        raise InputError(f"{len(scores)} game(s) were played; at least 2 are needed")
    margins = torch.tensor([forgotten - other for forgotten, other in scores], dtype=torch.float64)
    first, second = margins[::2], -margins[1::2]
    return distinguished(first.tolist(), second.tolist())


def distinguished(forgotten: Sequence[float], others: Sequence[float]) -> GameResult:
    """Return the chance that a score of what was forgotten is above one of what was not, with its interval.

    >>> distinguished([1.0, 2.0], [1.0, 2.0]).auc
    0.5
    """
    area = auc(torch.tensor(forgotten), torch.tensor(others))
    low, high = auc_interval(area, len(forgotten), len(others))
    return GameResult(area, low, high, len(forgotten) + len(others))


def auc_interval(area: float, positives: int, negatives: int, z: float = 1.96) -> tuple[float, float]:
    """Return the interval of an area under the ROC curve; it has a width even where the area is 0 or 1.

    The limits are the areas A at which the observed one is z standard errors away, with
    `A (1-A) (1 + k (1-A)/(2-A) + k A/(1+A)) / (m n)`, `k = (m+n)/2 - 1`, for the variance: Newcombe, Statistics in
    Medicine 25(4), 2006, method 5.

    >>> [round(limit, 3) for limit in auc_interval(0.5, 30, 30)]
    [0.36, 0.64]
    """
    pairs, k = positives * negatives, (positives + negatives) / 2 - 1

    def outside(true: float) -> bool:
        spread = true * (1 - true) * (1 + k * (1 - true) / (2 - true) + k * true / (1 + true)) / pairs
        return abs(true - area) > z * math.sqrt(max(0.0, spread))

    return _edge(0.0, area, outside), _edge(1.0, area, outside)


def _edge(out: float, inside: float, outside: Callable[[float], bool]) -> float:
    """Return where `outside` changes between the two, to 60 halvings; `out` itself if it is not outside."""
    if not outside(out):
        return out
    for _ in range(60):
        middle = (out + inside) / 2
        out, inside = (middle, inside) if outside(middle) else (out, middle)
    return inside
