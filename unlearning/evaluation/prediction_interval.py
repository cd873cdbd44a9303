"""Prediction interval for one more model of the same population, and the smallest deviation that it would detect.

Retrained models of different seeds are a sample of a population. If their values are about normal, one more is above

    m + t s sqrt(1 + 1/k)

in a share `1 - p` of cases: m and s are mean and standard deviation of the k values, and t the p-quantile of Student's
distribution with k - 1 degrees of freedom (Hahn & Meeker, "Statistical Intervals", 1991, section 4.7); below likewise.
The two sides may have different shares. All models are measured on the same samples, so the sampling error is common
to all and does not affect the comparison.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev

from fedquit.errors import InputError

POWER = 0.8
POINTS = 4000  # of the distribution of S


@dataclass(frozen=True, slots=True)
class Prediction:
    """Where one more model is expected.

    Attributes:
        mean: of the values.
        noise: standard deviation of one more value's distance from that mean.
        count: number of values.
    """

    mean: float
    noise: float
    count: int

    def interval(self, below: float, above: float) -> tuple[float, float]:
        """Return the interval that one more value is below in a share `below` of cases, and above in `above`."""
        low, high = (quantile(1 - share, self.count - 1) * self.noise for share in (below, above))
        return self.mean - low, self.mean + high

    def smallest_gap(self, share: float) -> float:
        """Return the distance at which a model is outside in 80 % of cases, on the side which has that share."""
        return detectable_gap(share, self.count - 1) * self.noise


def predict_one_more(values: Sequence[float], floor: float = 0.0) -> Prediction:
    """Return where one more value of the population is expected.

    Args:
        values: of at least two models.
        floor: no standard deviation is taken to be smaller, such as that of a rate known to one sample in n.

    >>> low, high = predict_one_more([1.0, 2.0, 3.0]).interval(0.025, 0.025)
    >>> round(low, 2), round(high, 2)
    (-2.97, 6.97)
    """
    if len(values) < 2:
        raise InputError(f"{len(values)} value(s) have no spread; at least 2 are needed")
    return Prediction(fmean(values), max(stdev(values), floor) * (1 + 1 / len(values)) ** 0.5, len(values))


@cache
def quantile(share: float, freedom: int) -> float:
    """Return the value below which Student's t lies in a share of cases.

    >>> round(quantile(0.975, 4), 3)
    2.776
    """
    from scipy.stats import t  # slow to import, and only wanted here

    return float(t.ppf(share, freedom))


@cache
def detectable_gap(share: float, freedom: int, power: float = POWER) -> float:
    """Return the gap, in units of the noise, that is found in a share `power` of cases on a side with this share.

    The statistic of a model that is off by `gap` is `(Z + gap) / S`, with Z normal and S the root of a chi-square
    variable over its degrees of freedom; the share beyond the edge is a mean over equally likely values of S.

    >>> round(detectable_gap(0.025, 4), 2), round(detectable_gap(0.025, 10**6), 2)
    (3.76, 2.8)
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.stats import chi2, norm

    likely = np.sqrt(chi2.ppf((np.arange(POINTS) + 0.5) / POINTS, freedom) / freedom)
    edge = quantile(1 - share, freedom) * likely
    return float(brentq(lambda gap: power - float(np.mean(norm.cdf(gap - edge))), 0.0, float(edge.max()) + 9))
