"""Compare the step that a model takes away from the global one with what is known of the federation's steps.

In training a device moves the mean a little; in forgetting its model becomes the global one. So its step is compared:

reach       no weight moved further than the method's own optimizer can move it (`Method.reach`): a bound that a device
            which followed the method cannot break
length      of the step, compared with single devices' steps in recent rounds: median and MAD; for a method that undoes
            many rounds at once (`Method.undoes`) with the longest of all rounds
layers      length of each layer's step, compared with recent rounds, so that no short vector hides a broken layer
direction   the cosine to recent rounds: forgetting does not go where training goes
buffers     running statistics, counters, tables: see `buffers`
accuracy    on data of the server, if it has any, over all classes and for each

Where the server has the device clip its step and add noise, what that explains is within the bounds of length.

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
from fedquit.unlearning.methods.base import Method
from fedquit.unlearning.tensors.arithmetic import difference, norm
from fedquit.unlearning.tensors.convert import StateDict

MAD_TO_SIGMA = 1.4826  # of a normal distribution
SURE = 6.0  # noise of n parameters is longer than sqrt(n) + 6 standard deviations once in e^18 times
SMALL = 0.01  # a layer that recent rounds hardly moved may move by this share of its own length


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far off a model may be.

    Attributes:
        parameters: the entries that are parameters, not buffers.
        reach: how far the method can move a parameter; None: not known.
        step: as `Traits.step`: what is compared with recent rounds.
        keeps_accuracy: whether the model must keep a share of the accuracy before.
        asked: classes that are to be forgotten: no accuracy is expected of them.
        times: of the median length of single devices' recent steps ...
        spread: ... or this number of spreads (MAD) above it, whichever is more.
        layer: times the median length of a layer's recent steps.
        cosine: to recent rounds, at most; `against`: at least.
        accuracy: share of the accuracy before that must be left.
        class_accuracy: the same for single classes; half of the classes not asked about may fall below it.
        clip: length to which the device clips its step before it adds noise; `noise`: standard deviation of the noise
            of each parameter, 0: it adds none.
        stronger: as `Method.stronger`: how the method is made to take a longer step; "": a short one is no fault, as
            where the device clips it, or its length is that of noise.
        undoes: as `Method.undoes`: the step is compared with the longest of all rounds, not with recent ones.
    """

    parameters: Collection[str] = frozenset()
    reach: float | None = None
    step: str = "result"
    keeps_accuracy: bool = True
    asked: Collection[int] = ()
    times: float = 8.0
    spread: float = 6.0
    layer: float = 25.0
    cosine: float = 0.2
    against: float = -0.8
    accuracy: float = 0.33
    class_accuracy: float = 0.1
    clip: float = 0.0
    noise: float = 0.0
    stronger: str = ""
    undoes: bool = False

    def noise_length(self, count: int) -> float:
        """Return how long the step of `count` parameters may be because of its clip and noise; 0: there is no noise.

        >>> Bounds().noise_length(100), Bounds(clip=0.5, noise=0.1).noise_length(100)
        (0.0, 2.1)
        """
        return self.clip + self.noise * (math.sqrt(count) + SURE) if self.noise else 0.0


def bounds_of(
    method: Method,
    parameters: Collection[str],
    sizes: Collection[int],
    asked: Collection[int] = (),
    *,
    exact: bool = True,
    clip: float = 0.0,
    noise: float = 0.0,
) -> Bounds:
    """Return how far off a method's model may be.

    Args:
        method: that serves the request.
        parameters: the model's entries that are parameters.
        sizes: samples to forget of each device that forgets, as the server knows them; none: no device does.
        asked: classes that are to be forgotten.
        exact: whether models travel without loss. What a lossy codec or noise changes is no step of an optimizer, so
            that no reach is known.
        clip: the norm to which the device clips its step.
        noise: standard deviation of the noise that it then adds to each parameter, as a multiple of `clip`; 0: none.

    >>> from fedquit.unlearning.methods.base import make_method
    >>> bounds_of(make_method("retrain"), (), ()).step, bounds_of(make_method("fedquit", lr=0.001), (), [64]).reach
    ('nothing', 0.002...)
    """
    reaches = [method.reach(size) if exact and not noise else None for size in sizes]
    known = [reach for reach in reaches if reach is not None]
    return Bounds(
        parameters=frozenset(parameters),
        reach=max(known) if known and len(known) == len(reaches) else None,
        step=method.traits.step,
        keeps_accuracy=method.traits.keeps_accuracy,
        asked=frozenset(asked),
        clip=clip,
        noise=noise * clip,
        stronger="" if clip else method.stronger,
        undoes=method.undoes,
    )


@dataclass(frozen=True, slots=True)
class Recent:
    """What recent rounds show.

    Attributes:
        norms: median length of single devices' steps, a number for each round; `spreads`: their MAD.
        updates: steps of the global model, all entries in float64, the latest last.
        longest: of all rounds, see `longest_of`: a model retrained from scratch moves as the federation's own did
            at first. None: not known.
    """

    norms: Sequence[float] = ()
    spreads: Sequence[float] = ()
    updates: Sequence[StateDict] = ()
    longest: float | None = None


def longest_of(norms: Collection[float]) -> float | None:
    """Return the length that the devices' steps reached in two rounds: one round may have had a liar and few others.

    Args:
        norms: median length of single devices' steps, of every round there was.

    >>> longest_of([2.0, 900.0, 1.5, 0.3]), longest_of([2.0]), longest_of([])
    (2.0, 2.0, None)
    """
    return sorted(norms)[-2:][0] if norms else None


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracy on data of the server's: over all, and of each class that is there."""

    overall: float
    classes: Mapping[int, float] = field(default_factory=dict)


def step_findings(
    new: StateDict, current: StateDict, recent: Recent, bounds: Bounds, *, direction: bool = True
) -> tuple[Finding, ...]:
    """Compare the step from `current` to `new` with what is known; buffers are `buffers.check_buffers`' affair.

    Args:
        new: a model of the same form.
        current: the model that it started from.
        recent: what recent rounds show.
        bounds: how far off it may be.
        direction: whether it must not go where training goes.

    >>> one, two = {"w": torch.zeros(2)}, {"w": torch.tensor([3.0, 4.0])}
    >>> [str(each) for each in step_findings(two, one, Recent(norms=[0.5]), Bounds(parameters={"w"}, reach=5.0))]
    ['furthest weight 4 (at most 5)', 'length of the step 5 (at most 4)']
    """
    step = difference(new, current, set(current))
    moving = {name: value for name, value in step.items() if name in bounds.parameters}
    findings = []
    if bounds.reach is not None:
        furthest = max((float(value.abs().max()) for value in moving.values() if value.numel()), default=0.0)
        findings.append(Finding("furthest weight", furthest, bounds.reach, scales=True))
    if recent.norms:
        middle, spread = median(recent.norms), median(recent.spreads or [0.0]) * MAD_TO_SIGMA
        if bounds.undoes:
            middle = max(middle, recent.longest or 0.0)
        count = sum(value.numel() for value in moving.values())
        most = max(bounds.times * middle, middle + bounds.spread * spread, bounds.noise_length(count))
        findings.append(Finding("length of the step", norm(moving), most, scales=True))
    if recent.updates:
        findings.append(_furthest_layer(moving, current, recent.updates, bounds))
    if recent.updates and direction:
        findings += _direction(moving, recent.updates, bounds)
    return tuple(findings)


def moved_share(new: StateDict, current: StateDict, recent: Recent, parameters: Collection[str]) -> float | None:
    """Return the length of the step from `current` to `new`, as a multiple of a single device's in the longest round.

    Recent rounds would not do: where training has converged, their steps are as short as one that forgets nothing.
    None: no round is known, or none moved anything.

    >>> one, two = {"w": torch.zeros(2)}, {"w": torch.tensor([3.0, 4.0])}
    >>> moved_share(two, one, Recent(norms=[1.0], longest=50.0), {"w"}), moved_share(two, one, Recent(), {"w"})
    (0.1, None)
    """
    first = recent.longest or median(recent.norms or [0.0])
    return norm(difference(new, current, frozenset(parameters))) / first if first > 0 else None


def accuracy_findings(new: Accuracy, before: Accuracy, bounds: Bounds) -> tuple[Finding, ...]:
    """Compare accuracies on data of the server's; of the classes that are to be forgotten none is expected.

    >>> found = accuracy_findings(Accuracy(0.2, {0: 0.4, 1: 0.0}), Accuracy(0.9, {0: 0.9, 1: 0.9}), Bounds())
    >>> [str(each) for each in found]
    ['accuracy 0.2 (at least 0.297)', 'classes that are lost 1 (at most 1)']
    """
    kept = [label for label in before.classes if label not in bounds.asked]
    lost = [c for c in kept if new.classes.get(c, 0.0) < bounds.class_accuracy * before.classes[c]]
    findings = [Finding("accuracy", new.overall, bounds.accuracy * before.overall, at_least=True)]
    if kept:
        findings.append(Finding("classes that are lost", len(lost), math.ceil(len(kept) / 2)))
    return tuple(findings)


def _furthest_layer(
    moving: Mapping[str, Tensor], current: StateDict, updates: Sequence[StateDict], bounds: Bounds
) -> Finding:
    """Return the layer that is furthest off, as a multiple of its usual step.

    Training may hardly move a layer that the method's optimizer moves as far as any other: Adam takes steps of the same
    size however small the gradient is, such as that of a bias before batch normalisation. What the reach explains is
    therefore usual.
    """
    worst = 0.0
    for name, value in moving.items():
        usual = median(norm({name: update[name]}) for update in updates)
        explained = max((bounds.reach or 0.0) * math.sqrt(value.numel()), bounds.noise_length(value.numel()))
        usual = max(usual, SMALL * norm({name: current[name]}) / bounds.layer, explained / bounds.layer)
        worst = max(worst, norm({name: value}) / usual if usual else 0.0)
    return Finding("a layer's step, in times of its usual one,", worst, bounds.layer, scales=True)


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
