"""The verdict on a model that should have forgotten: can it be told from one more model retrained without the data?

Models retrained with different seeds differ as well. For each measure they say where one more of them would lie
(`prediction_interval.py`); a candidate outside of one of these intervals is not consistent with retraining.

The intervals are wider on the over-forgetting side. Under-forgetting is off to one side: nearer to the model before
forgetting, with less loss and more right answers on the samples. On that side retrained models are about as rare as the
normal distribution says; the shares of the measures add up to `UNDER_FORGETTING` there (Bonferroni), and `position` has
the most, because it has most of the power. On the other side is over-forgetting. Some seeds train badly, many more than
the normal distribution says, so each measure has a share of no more than `OTHER_SIDE` there: only a model that is far
off is refused. docs/results/verdict.md says how this was chosen, and how often a retrained model was refused.

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

TEST = "t prediction interval for one more retrained model, wider on the over-forgetting side, Bonferroni"
UNDER_FORGETTING = 0.025
"""Share of retrained models that is refused for under-forgetting, if their values are normal."""
OTHER_SIDE = 0.0002
"""The same share on any other side, of each measure."""
REFERENCES = 5
"""Retrained models that a verdict needs."""
POSITION = "position"
LOW, HIGH = "low", "high"
UNDER_FORGETTING_SIDE = {POSITION: LOW, "forget_loss": LOW, "forget_accuracy": HIGH}
"""On which side of retrained models under-forgetting is; other measures do not show it."""
WEIGHTS = {POSITION: 3}  # in shares of `UNDER_FORGETTING`; any other measure 1
LEVEL = UNDER_FORGETTING + 5 * OTHER_SIDE
"""The shares of the verdict's four measures together."""


def present_rule() -> dict[str, Any]:
    """Return the rule by which verdicts are reached, its name and every number in it, for documents with verdicts.

    >>> present_rule()["references"], present_rule()["under_forgetting"]
    (5, 0.025)
    """
    return {
        "name": TEST,
        "references": REFERENCES,
        "under_forgetting": UNDER_FORGETTING,
        "other_side": OTHER_SIDE,
        "sides": UNDER_FORGETTING_SIDE,
        "weights": WEIGHTS,
    }


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
            (`level`), the side of `under_forgetting` (`low`, `high`; None: neither shows it), the `noise` of retraining
            (standard deviation of one more model's distance from the mean), and `smallest_gap`: the distance from the
            references' mean, to that side, that would have been found in a share `power` of cases. Of `position`, 1 is
            the whole way from retraining to the model before forgetting.
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
    'forget_accuracy is 0.9500, and one more retrained model would be within 0.5209..0.7581'
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
    return Verdict(*decide(measures, passed), about, measures, passed)


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
    shares = shares_of(list(predicted))
    return {
        name: hold(values[name], prediction, shares[name], UNDER_FORGETTING_SIDE.get(name))
        for name, prediction in predicted.items()
        if name in values
    }


def shares_of(names: Sequence[str]) -> dict[str, float]:
    """Return each measure's share on the under-forgetting side; of a measure that has no such side, that on each side.

    >>> shares_of(["position", "forget_loss", "forget_accuracy", "test_accuracy"])
    {'position': 0.015, 'forget_loss': 0.005, 'forget_accuracy': 0.005, 'test_accuracy': 0.0002}
    """
    whole = sum(WEIGHTS.get(name, 1) for name in names if name in UNDER_FORGETTING_SIDE)
    return {
        name: UNDER_FORGETTING / whole * WEIGHTS.get(name, 1) if name in UNDER_FORGETTING_SIDE else OTHER_SIDE
        for name in names
    }


def hold(value: float, prediction: Prediction, share: float, under_forgetting: str | None) -> dict[str, Any]:
    """Return a value and the prediction for one more retrained model; see `Verdict.measures`.

    Args:
        value: of the candidate.
        prediction: from the references.
        share: of retrained models beyond the interval on the under-forgetting side; the other has `OTHER_SIDE`.
        under_forgetting: that side, `LOW` or `HIGH`; None: both sides have the share.

    >>> prediction = Prediction(mean=0.0, noise=1.0, count=5)
    >>> hold(-5.0, prediction, 0.025, LOW)["inside"], hold(5.0, prediction, 0.025, LOW)["inside"]
    (False, True)
    """
    below, above = (share if under_forgetting in (side, None) else OTHER_SIDE for side in (LOW, HIGH))
    low, high = prediction.interval(below, above)
    return {
        "value": value,
        "expected": prediction.mean,
        "noise": prediction.noise,
        "low": low,
        "high": high,
        "inside": low <= value <= high,
        "smallest_gap": prediction.smallest_gap(share),
        "level": below + above,
        "under_forgetting": under_forgetting,
    }


def decide(
    measures: Mapping[str, Mapping[str, Any]], control: Mapping[str, Mapping[str, Any]] | None
) -> tuple[str, str]:
    """Return outcome and reason from what `Verdict` says of the candidate's and the control's measures.

    >>> seen, not_seen = ({"forget_loss": {"inside": inside}} for inside in (False, True))
    >>> decide(not_seen, not_seen)[0], decide(not_seen, seen)[0]
    ('no evidence', 'consistent with retraining')
    """
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
