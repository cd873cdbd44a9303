"""The verdict as it was before, to compare error rates with: gaps to the mean of the references against their range.

A model was consistent if none of four rates (three accuracies and the share of the forgotten samples that an attack on
modified entropy calls members) was further from the references' mean than their largest difference, or than the 95 %
half width of the difference of two independent shares (Agresti & Caffo 2000).
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean
from typing import Any

PARTS = {
    "forget_accuracy": "forget",
    "retain_accuracy": "retain",
    "test_accuracy": "test",
    "attacked_as_member": "forget",
}


def was_consistent(
    candidate: Mapping[str, Any], references: Sequence[Mapping[str, Any]], samples: Mapping[str, int]
) -> bool:
    """Say whether a model was called consistent with retraining.

    >>> rates = dict.fromkeys(PARTS, 0.5)
    >>> samples = {"forget": 100, "retain": 100, "test": 100}
    >>> was_consistent({**rates, "forget_accuracy": 0.7}, [rates, rates], samples)
    False
    """
    for name, part in PARTS.items():
        rates, count = [reference[name] for reference in references], samples[part]
        mean = fmean(rates)
        smoothed = (mean * count + 1) / (count + 2)
        chance = 1.96 * sqrt(2 * smoothed * (1 - smoothed) / (count + 2))
        if abs(candidate[name] - mean) > max(max(rates) - min(rates), chance):
            return False
    return True
