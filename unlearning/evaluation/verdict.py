"""The verdict on a model that should have forgotten: can it be distinguished from one retrained without the data?

Two retrained models of different seeds differ as well, and every rate is measured on a sample. A candidate is
consistent with retraining if it differs from retrained models by no more than they do from each other, or than chance
explains. The thresholds are fixed from the references alone, by a function that never sees the candidate. Consistency
is no proof: the verdict is never "verified".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fedquit.errors import InputError

CONSISTENT = "consistent with retraining"
NOT_CONSISTENT = "not consistent"
UNDETERMINED = "undetermined"

Rates = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, why, and the numbers: each measure's gap and the threshold it was held against."""

    outcome: str
    reason: str
    thresholds: dict[str, float]
    gaps: dict[str, float]


def sampling_noise(rate: float, num_samples: int) -> float:
    """Return the 95 % half width of the difference of two shares of `num_samples` each, both truly `rate`.

    `1.96 sqrt(2 p (1-p) / (n+2))`, p being the rate with one success and one failure added (Agresti & Caffo, The
    American Statistician 54(4), 2000): the plain formula says 0 where every sample was right, as if more could not be.

    >>> round(sampling_noise(0.5, 200), 3), round(sampling_noise(1.0, 200), 3)
    (0.098, 0.014)
    """
    p = (rate * num_samples + 1) / (num_samples + 2)
    return 1.96 * math.sqrt(2 * p * (1 - p) / (num_samples + 2))


def fix_thresholds(references: Sequence[Rates], measures: Mapping[str, int]) -> dict[str, float]:
    """Return the largest gap of each measure that still counts as retraining; empty with fewer than two references.

    Args:
        references: the rates (0..1) of models retrained with different seeds.
        measures: for each measure, the number of samples that its rate is a share of.

    >>> fix_thresholds([{"forget_accuracy": 0.5}, {"forget_accuracy": 0.7}], {"forget_accuracy": 1000})
    {'forget_accuracy': 0.2}
    """
    if len(references) < 2:
        return {}
    found = {name: [rates[name] for rates in references] for name in _shared(measures, references)}
    return {
        name: round(max(max(rates) - min(rates), sampling_noise(fmean(rates), measures[name])), 12)
        for name, rates in found.items()
    }


def verdict_of(
    candidate: Rates,
    references: Sequence[Rates],
    num_forget: int,
    minimum_samples: int = 30,
    *,
    measures: Mapping[str, int],
) -> Verdict:
    """Compare a candidate with models retrained without the data.

    Args:
        candidate: its rates (0..1), by measure: accuracies, members called by an attack.
        references: the same for retrained models of different seeds; at least two for a verdict.
        num_forget: how many samples were to be forgotten.
        minimum_samples: with fewer than this, no verdict is possible.
        measures: what to compare, and the number of samples each rate is a share of. One that the candidate or a
            reference lacks is left out, and the reason says so.

    Raises:
        InputError: a rate outside 0..1, or a sample count below 1.

    >>> references = [{"forget_accuracy": 0.70}, {"forget_accuracy": 0.72}]
    >>> verdict_of({"forget_accuracy": 0.99}, references, num_forget=400, measures={"forget_accuracy": 400}).reason
    'forget_accuracy is 0.2800 from retraining (at most 0.0628)'
    """
    _check(candidate, references, measures)
    thresholds = fix_thresholds(references, measures)
    gaps = {}
    for name in _shared(measures, [candidate, *references]) if references else []:
        gaps[name] = round(abs(candidate[name] - fmean(rates[name] for rates in references)), 12)
    outcome, reason = _decide(gaps, thresholds, len(references), num_forget, minimum_samples)
    left_out = [name for name in measures if name not in gaps]
    if references and left_out:
        reason += f"; not evaluated, as not every model has it: {', '.join(left_out)}"
    return Verdict(outcome, reason, thresholds, gaps)


def _decide(
    gaps: Rates, thresholds: Rates, num_references: int, num_forget: int, minimum_samples: int
) -> tuple[str, str]:
    if num_references < 2:
        return UNDETERMINED, f"{num_references} retrained model(s) to compare with; at least 2 are needed"
    if num_forget < minimum_samples:
        return UNDETERMINED, f"{num_forget} samples to forget are too few; at least {minimum_samples} are needed"
    if not gaps:
        return UNDETERMINED, "no measure is known of every model"
    wide = [
        f"{name} is {gap:.4f} from retraining (at most {thresholds[name]:.4f})"
        for name, gap in gaps.items()
        if gap > thresholds[name]
    ]
    if wide:
        return NOT_CONSISTENT, "; ".join(wide)
    return CONSISTENT, f"no further from retraining than {num_references} retrained models or chance: {', '.join(gaps)}"


def _shared(measures: Mapping[str, int], models: Sequence[Rates]) -> list[str]:
    return [name for name in measures if all(name in rates for rates in models)]


def _check(candidate: Rates, references: Sequence[Rates], measures: Mapping[str, int]) -> None:
    for name, count in measures.items():
        if count < 1:
            raise InputError(f"measure '{name}' is a share of {count} samples; it must be at least 1")
        for rates in (candidate, *references):
            if name in rates and not 0 <= rates[name] <= 1:
                raise InputError(f"measure '{name}' is {rates[name]}; it must be a share between 0 and 1")
