"""Look at the model that one device hands back before it becomes everybody's: adopt it, clip it, blend it or refuse it.

In training a device moves the mean a little; in forgetting its model becomes the global one. So it is held aside until
its step away from the global model has been compared with what is known:

reach       no weight moved further than the method's own optimiser can move it (`Method.reach`): a bound that a device
            which followed the method cannot break
norm        the length of the step beside that of single devices' steps in recent rounds: median and MAD
layers      the length of each layer's step beside that of recent rounds, so that no short vector hides a broken layer
direction   the cosine to recent rounds: forgetting does not go where training goes
accuracy    on data that the server trusts, if it has any, over all classes and for each

FedQUIT is meant to overshoot: what it breaks, recovery mends. The bounds are therefore wide; docs/coordinator.md says
what they were measured to let through, what they stop, and what they cannot see.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from fedquit.strategies.guard.finding import Finding
from fedquit.unlearning.arithmetic import StateDict, difference, moved, norm

MAD_TO_SIGMA = 1.4826  # of a normal distribution
SMALL = 0.01  # a layer that recent rounds hardly moved may move by this share of its own length


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far off a model may be.

    Attributes:
        times: of the median length of single devices' recent steps ...
        spread: ... or so many spreads (MAD) above it, whichever is more.
        layer: times the median length of a layer's recent steps.
        cosine: to recent rounds, at most; `against`: at least.
        accuracy: share of the accuracy before that must be left.
        class_accuracy: the same for single classes; half of the classes not asked about may fall below it.
    """

    times: float = 8.0
    spread: float = 6.0
    layer: float = 25.0
    cosine: float = 0.2
    against: float = -0.8
    accuracy: float = 0.33
    class_accuracy: float = 0.1


@dataclass(frozen=True, slots=True)
class Recent:
    """What recent rounds show.

    Attributes:
        norms: median length of single devices' steps, a number for each round; `spreads`: their MAD.
        updates: steps of the global model, all entries in float64, the latest last.
    """

    norms: Sequence[float] = ()
    spreads: Sequence[float] = ()
    updates: Sequence[StateDict] = ()


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracy on trusted data: over all, and of each class that is there."""

    overall: float
    classes: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a model: "adopt", "clip", "blend" or "refuse"; the model to go on with, unless it is refused."""

    verdict: str
    findings: tuple[Finding, ...]
    state: StateDict | None = None

    @property
    def reason(self) -> str:
        """The findings that do not hold, in words; empty if all do."""
        return "; ".join(str(finding) for finding in self.findings if not finding.holds)


def step_findings(
    new: StateDict,
    current: StateDict,
    recent: Recent,
    *,
    parameters: Collection[str],
    reach: float | None = None,
    bounds: Bounds | None = None,
) -> tuple[Finding, ...]:
    """Compare the step from `current` to `new` with what is known.

    Args:
        new: what the device handed back; `guard.checked_arrays` has let it through.
        current: the global model that it was sent.
        recent: what recent rounds show.
        parameters: the entries that are parameters, not buffers.
        reach: how far the method can move a parameter; None: not known.
        bounds: how far off it may be.

    >>> one, two = {"w": torch.zeros(2)}, {"w": torch.tensor([3.0, 4.0])}
    >>> [str(each) for each in step_findings(two, one, Recent(norms=[0.5]), parameters={"w"}, reach=5.0)]
    ['furthest weight 4 (at most 5)', 'length of the step 5 (at most 4)']
    """
    bounds = bounds or Bounds()
    step = difference(new, current, set(current))
    moving = {name: value for name, value in step.items() if name in parameters}
    findings = []
    if reach is not None:
        furthest = max((float(value.abs().max()) for value in moving.values() if value.numel()), default=0.0)
        findings.append(Finding("furthest weight", furthest, reach))
    if recent.norms:
        middle, spread = median(recent.norms), median(recent.spreads or [0.0]) * MAD_TO_SIGMA
        most = max(bounds.times * middle, middle + bounds.spread * spread)
        findings.append(Finding("length of the step", norm(moving), most))
    if recent.updates:
        findings += [*_layers(step, current, recent.updates, bounds), *_direction(moving, recent.updates, bounds)]
    return tuple(findings)


def accuracy_findings(
    new: Accuracy, before: Accuracy, *, asked: Collection[int] = (), bounds: Bounds | None = None
) -> tuple[Finding, ...]:
    """Compare accuracies on trusted data; of the classes that are `asked` to be forgotten none is expected.

    >>> [str(each) for each in accuracy_findings(Accuracy(0.2, {0: 0.4, 1: 0.0}), Accuracy(0.9, {0: 0.9, 1: 0.9}))]
    ['accuracy 0.2 (at least 0.297)', 'classes that are lost 1 (at most 1)']
    """
    bounds = bounds or Bounds()
    kept = [label for label in before.classes if label not in asked]
    lost = [c for c in kept if new.classes.get(c, 0.0) < bounds.class_accuracy * before.classes[c]]
    findings = [Finding("accuracy", new.overall, bounds.accuracy * before.overall, at_least=True)]
    if kept:
        findings.append(Finding("classes that are lost", len(lost), math.ceil(len(kept) / 2)))
    return tuple(findings)


def decide(
    policy: str, new: StateDict, current: StateDict, findings: Sequence[Finding], *, blend: float = 0.5
) -> Decision:
    """Decide what becomes of a model.

    Args:
        policy: for one that is further off than it may be: "adopt" it all the same, "clip" its step to the bounds,
            "blend" in a share of the clipped step, or "refuse" it.
        new: the model.
        current: the global model.
        findings: of the step, and of accuracy if it is known.
        blend: the share.

    >>> one, two = {"w": torch.zeros(1)}, {"w": torch.tensor([8.0])}
    >>> decide("clip", two, one, [Finding("length of the step", 8.0, 2.0)]).state
    {'w': tensor([2.])}
    """
    told = tuple(findings)
    if all(finding.holds for finding in told):
        return Decision("adopt", told, new)
    if policy == "refuse":
        return Decision("refuse", told)
    if policy == "adopt":
        return Decision("adopt", told, new)
    scale = min((f.bound / f.value for f in told if not f.holds and not f.at_least and f.what in SCALES), default=1.0)
    share = blend if policy == "blend" else 1.0
    return Decision(policy, told, moved(current, difference(new, current, set(current)), scale * share))


def _layers(
    step: Mapping[str, Tensor], current: StateDict, updates: Sequence[StateDict], bounds: Bounds
) -> list[Finding]:
    """Return the layer that is furthest off, in times of what it usually moves."""
    worst = 0.0
    for name, value in step.items():
        if current[name].is_floating_point():
            usual = median(norm({name: update[name]}) for update in updates)
            usual = max(usual, SMALL * norm({name: current[name]}) / bounds.layer)
            worst = max(worst, norm({name: value}) / usual if usual else 0.0)
    return [Finding("a layer's step, in times of its usual one,", worst, bounds.layer)]


def _direction(moving: Mapping[str, Tensor], updates: Sequence[StateDict], bounds: Bounds) -> list[Finding]:
    """Return how far the step goes where training goes; one that stands still goes nowhere."""
    way = {name: torch.stack([update[name].double() for update in updates]).sum(dim=0) for name in moving}
    lengths = norm(moving) * norm(way)
    along = math.fsum(float((moving[name] * way[name]).sum()) for name in moving)
    cosine = along / lengths if lengths else 0.0
    return [
        Finding("cosine to training", cosine, bounds.cosine),
        Finding("cosine to training", cosine, bounds.against, at_least=True),
    ]


SCALES = ("furthest weight", "length of the step", "a layer's step, in times of its usual one,")
"""Findings that a shorter step mends."""
