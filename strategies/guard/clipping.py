"""No reply moves a round's mean further than recent honest ones: a step that is longer than is usual is shortened.

The usual length is a quantile of the lengths of single clients' steps, as in adaptive clipping (Andrew et al. 2021,
arXiv 1905.03871), read off the replies of this round and of those before it. It is the upper quartile, rounded down to
a length that there was: of four lengths the second largest, of two the smaller. So no one client can set it, and most
honest steps are not touched. Of two clients one may stand still, by bad luck or to hold the other one up: what was
usual is therefore kept as long as anybody still goes that far, and a client that stands still says nothing of it.
Parameters and buffers are on scales of their own, and are shortened apart.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import median

import numpy as np

from fedquit.unlearning.tensors.convert import Arrays

QUANTILE = 0.75
FEW = 3
"""With fewer replies than these, what is usual is what it was in the rounds before."""
DOUBLED = 2.0
"""Largest growth factor per round of the usual norm, where a single client sets it."""


def groups_of(sent: Arrays, parameters: Collection[str]) -> dict[str, list[str]]:
    """Return the entries whose steps are looked at together; counters are in none.

    >>> groups_of({"w": np.zeros(1), "var": np.ones(1), "count": np.array(3)}, {"w"})
    {'step': ['w'], 'buffers': ['var']}
    """
    moving = [name for name in sorted(sent) if sent[name].dtype.kind == "f"]
    groups = {
        "step": [name for name in moving if name in parameters],
        "buffers": [name for name in moving if name not in parameters],
    }
    return {group: names for group, names in groups.items() if names}


def length(arrays: Arrays, sent: Arrays, names: Collection[str]) -> float:
    """Return the Euclidean length of a step over the entries `names` together.

    >>> length({"w": np.array([3.0, 4.0])}, {"w": np.zeros(2)}, ["w"])
    5.0
    """
    squares = (np.square(np.subtract(arrays[name], sent[name], dtype=np.float64)).sum() for name in names)
    return math.sqrt(math.fsum(map(float, squares)))


def upper(lengths: Collection[float]) -> float:
    """Return the upper quartile, rounded down to one of the lengths.

    >>> upper([1.0, 9.0, 2.0, 3.0]), upper([9.0, 1.0]), upper([9.0])
    (3.0, 1.0, 9.0)
    """
    return sorted(lengths)[int(QUANTILE * (len(lengths) - 1))]


def most(lengths: Collection[float], usual: Sequence[float], times: float) -> float:
    """Return how long a step of this round may be; infinity: nothing is known.

    Args:
        lengths: of the round's steps.
        usual: what was usual in the rounds before.
        times: largest allowed ratio to the usual norm.

    >>> most([1.0, 9.0, 2.0, 3.0], [2.0], 1.5), most([9.0], [2.0], 1.5), most([9.0], [], 1.5)
    (4.5, 3.0, inf)
    """
    known = [upper(lengths)] if len(lengths) >= FEW else []
    moved = [each for each in usual if each > 0]
    known += [median(moved)] if moved else []
    return times * max(known) if known else math.inf


def next_usual(lengths: Collection[float], at_most: float, times: float) -> float | None:
    """Return what is usual after a round in which steps could be `at_most` long; None: nothing can be said.

    Args:
        lengths: of the round's steps.
        at_most: as `most` has it; infinity: nothing was known.
        times: as for `most`.

    >>> next_usual([1.0, 9.0, 2.0, 3.0], 4.5, 1.5), next_usual([0.0, 0.0], 4.5, 1.5)
    (3.0, None)
    >>> next_usual([0.1, 2.0], 1.5, 1.5), next_usual([0.0, 2.0], math.inf, 1.5)  # one hardly moves, or not at all
    (1.0, 2.0)
    """
    moving = [each for each in lengths if each > 0]
    if not moving:
        return None
    usual = min(upper(lengths if len(lengths) >= FEW else moving), DOUBLED * at_most)
    if len(lengths) >= FEW or math.isinf(at_most):
        return usual or None
    return max(usual, min(max(moving), at_most) / times)


def clipped(arrays: Arrays, sent: Arrays, groups: Mapping[str, Sequence[str]], scales: Mapping[str, float]) -> Arrays:
    """Return `sent` moved by a step that is shortened by its group's scale; scales of 1 and more change nothing.

    >>> clipped({"w": np.array([4.0])}, {"w": np.array([0.0])}, {"step": ["w"]}, {"step": 0.5})
    {'w': array([2.])}
    """
    new = dict(arrays)
    for group, names in groups.items():
        if scales.get(group, 1.0) < 1:
            for name in names:
                step = np.subtract(arrays[name], sent[name], dtype=np.float64) * scales[group]
                new[name] = np.asarray(sent[name] + step).astype(sent[name].dtype)
    return new
