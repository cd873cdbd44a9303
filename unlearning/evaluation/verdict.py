"""The verdict on a model that should have forgotten: can it be told from one more model retrained without the data?

Models retrained with different seeds differ as well. For each measure they say where one more of them would lie
(`prediction_interval.py`); a candidate outside of one of these intervals is not consistent with retraining. The levels
of the measures add up to `LEVEL` (Bonferroni), so that a model that was retrained is refused in at most that share of
cases. `position` gets half of the level: it has most of the power (docs/results/verdict.md says how it was chosen).

That a test finds nothing is evidence only if it could have found something. So a model that forgot nothing, the
control, takes the same test: if it passes too, there is no evidence, whatever the candidate is. Consistency is not
proof: the verdict is never "verified".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedquit.errors import InputError
from fedquit.unlearning.evaluation.position import position, predict_position
from fedquit.unlearning.evaluation.prediction_interval import POWER, Prediction, predict_one_more

CONSISTENT = "consistent with retraining"
NOT_CONSISTENT = "not consistent"
NO_EVIDENCE = "no evidence"
UNDETERMINED = "undetermined"

TEST = "t prediction interval for one more retrained model, Bonferroni"
LEVEL = 0.05
REFERENCES = 5
"""Retrained models that a verdict needs."""
POSITION = "position"
WEIGHTS = {POSITION: 3}  # in shares of the level; any other measure 1


@dataclass(frozen=True, slots=True)
class Evidence:
    """The measurements of a model that the verdict uses.

    Attributes:
        sha256: of its file, by which two models are known to be the same; "": not known.
        values: measures by name, such as `forget_accuracy`.
        scores: logit confidence of each sample to forget [N]; None: not known, and no position.
    """

    sha256: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    scores: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, why, and the test that led to it.

    Attributes:
        outcome: one of the four above.
        reason: in words.
        test: its name, `level`, `power`, number of `references`, and what the `control` is.
        measures: for each its `value`, the interval (`low`, `high`), whether it is `inside`, its share of the level
            (`level`), the `noise` of retraining (standard deviation of one more model's distance from the mean), and
            `smallest_gap`: the distance from the references' mean that would have been found in a share
            `power` of cases. Of `position`, 1 is the whole way from retraining to the model before forgetting.
        control: the same measures of the control; None: there is no test that it could have taken, or no control.
    """

    outcome: str
    reason: str
    test: dict[str, Any]
    measures: dict[str, dict[str, Any]]
    control: dict[str, dict[str, Any]] | None


def verdict_of(
    candidate: Evidence,
    references: Sequence[Evidence],
    *,
    original: Evidence | None,
    control: Evidence | None,
    control_is: str = "",
    floors: Mapping[str, float] | None = None,
    at_least: int = REFERENCES,
) -> Verdict:
    """Compare a candidate with models retrained without the data.

    Args:
        candidate: the model under test.
        references: models retrained with different seeds, for as many rounds as the candidate.
        original: the model before forgetting; without it there is no position.
        control: a model that forgot nothing, such as the original trained on without the data. None: there is none.
        control_is: what the control is, in words.
        at_least: number of references that a verdict needs.
        floors: for a measure the least standard deviation between references, such as 1/n for a rate of n samples.

    Returns:
        *not consistent* if a measure is outside, or the candidate is the original bit for bit. Else *undetermined* with
        fewer than `at_least` references or without a control, *no evidence* if the control is inside everywhere, and
        *consistent with retraining* if it is not.

    >>> models = [Evidence(values={"forget_accuracy": rate}) for rate in (0.70, 0.72, 0.71, 0.69, 0.73)]
    >>> learnt = Evidence(values={"forget_accuracy": 0.95})
    >>> verdict_of(models[0], models, original=None, control=learnt).outcome
    'consistent with retraining'
    >>> verdict_of(learnt, models, original=None, control=learnt).reason
    'forget_accuracy is 0.9500, and one more retrained model would be within 0.6619..0.7581'
    >>> verdict_of(models[0], models, original=None, control=models[1]).outcome
    'no evidence'
    """
    _check([candidate, *references, *filter(None, (original, control))])
    about = {"name": TEST, "level": LEVEL, "power": POWER, "references": len(references), "control": control_is or None}
    if original and original.sha256 and candidate.sha256 == original.sha256:
        reason = "it is the model before forgetting, bit for bit: nothing was forgotten"
        return Verdict(NOT_CONSISTENT, reason, about, {}, None)
    if len(references) < at_least:
        reason = f"needs {at_least} references, has {len(references)}"
        return Verdict(UNDETERMINED, reason, about, {}, None)
    predicted = _predicted(candidate, references, original, floors or {})
    measures = _held(candidate, references, original, predicted)
    passed = None if control is None else _held(control, references, original, predicted)
    return Verdict(*_decide(measures, passed), about, measures, passed)


def _predicted(
    candidate: Evidence, references: Sequence[Evidence], original: Evidence | None, floors: Mapping[str, float]
) -> dict[str, Prediction]:
    """Return where one more retrained model is expected, by the measures that all models have."""
    shared = [name for name in candidate.values if all(name in each.values for each in references)]
    found = {
        name: predict_one_more([each.values[name] for each in references], floors.get(name, 0.0)) for name in shared
    }
    known = [each.scores for each in references if each.scores is not None]
    everyone = len(known) == len(references) and candidate.scores is not None
    if original is None or original.scores is None or not everyone or len(known) < 3:
        return found
    place = predict_position(original.scores, torch.stack(known))
    return {POSITION: place, **found} if place else found


def _held(
    model: Evidence, references: Sequence[Evidence], original: Evidence | None, predicted: Mapping[str, Prediction]
) -> dict[str, dict[str, Any]]:
    """Return a model's measures and the prediction for one more retrained model."""
    values, before = dict(model.values), None if original is None else original.scores
    known = [each.scores for each in references if each.scores is not None]
    if POSITION in predicted and before is not None and model.scores is not None:
        place = position(before, torch.stack(known).mean(dim=0), model.scores)
        values |= {} if place is None else {POSITION: place}
    whole = sum(WEIGHTS.get(name, 1) for name in predicted)
    held = {}
    for name, prediction in predicted.items():
        if name in values:
            level = LEVEL * WEIGHTS.get(name, 1) / whole
            held[name] = hold(values[name], prediction, level)
    return held


def hold(value: float, prediction: Prediction, level: float) -> dict[str, Any]:
    """Return a value and the prediction for one more retrained model; see `Verdict.measures`.

    >>> hold(9.0, Prediction(mean=1.0, noise=1.0, count=5), 0.05)["inside"]
    False
    """
    low, high = prediction.interval(level)
    return {
        "value": value,
        "expected": prediction.mean,
        "noise": prediction.noise,
        "low": low,
        "high": high,
        "inside": low <= value <= high,
        "smallest_gap": prediction.smallest_gap(level),
        "level": level,
    }


def _decide(
    measures: Mapping[str, Mapping[str, Any]], control: Mapping[str, Mapping[str, Any]] | None
) -> tuple[str, str]:
    if not measures:
        return UNDETERMINED, "no measure is known of every model"
    outside = [
        f"{name} is {held['value']:.4f}, and one more retrained model would be within "
        f"{held['low']:.4f}..{held['high']:.4f}"
        for name, held in measures.items()
        if not held["inside"]
    ]
    if outside:
        return NOT_CONSISTENT, "; ".join(outside)
    if control is None:
        return UNDETERMINED, "there is no control: nothing says that this test could see a model that forgot nothing"
    seen = [name for name, held in control.items() if not held["inside"]]
    if not seen:
        return NO_EVIDENCE, "this test could not have seen it: a model that forgot nothing passes it too"
    return CONSISTENT, f"inside the intervals of {', '.join(measures)}; a model that forgot nothing is not: {seen[0]}"


def _check(models: Sequence[Evidence]) -> None:
    for model in models:
        for name, value in model.values.items():
            if value != value or (name.endswith("_accuracy") and not 0 <= value <= 1):
                kind = "a share between 0 and 1" if name.endswith("_accuracy") else "a number"
                raise InputError(f"measure '{name}' is {value}; it must be {kind}")
