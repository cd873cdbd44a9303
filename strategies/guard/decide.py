"""The one decision about a model that is to become the global one: adopt it, clip it, blend it or refuse it.

A deployed coordinator, a simulation and the table of sabotage all call `admit_model`, whatever the method and wherever
it runs. In this order:

1. form      names, shapes, dtypes, finite, signs of buffers: what fails is no model, and no policy adopts it
2. step      reach, length, layers, direction, buffers: as far as the method's traits say that they can be compared
3. policy    what a shorter step mends is clipped, or blended; what it does not mend is refused
4. accuracy  of what would be adopted, which after clipping is another model than the one that came in
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

from fedquit.errors import BadReplyError, FedquitError
from fedquit.strategies.guard.buffers import check_buffers
from fedquit.strategies.guard.finding import Finding, broken
from fedquit.strategies.guard.step_checks import (
    Accuracy,
    Bounds,
    Recent,
    accuracy_findings,
    moved_share,
    step_findings,
)
from fedquit.unlearning.tensors.arithmetic import check_usable, difference, moved
from fedquit.unlearning.tensors.convert import StateDict

LISTED = 20
"""Findings that a document lists, those that do not hold first: a model of many layers can be wrong in each."""
LONGEST = 1000
"""Characters of a reason in a document."""
SHORT = 0.05
"""A step that is shorter than this share of a single device's in the longest round can hardly have forgotten much."""
Evaluate = Callable[[StateDict], Accuracy | None]


@dataclass(frozen=True, slots=True)
class Policy:
    """What is done with a model that is further off than it may be.

    Attributes:
        guard: "adopt" it all the same, "clip" its step to the bounds, "blend" in a share of the clipped step, or
            "refuse" it.
        blend: the share.
    """

    guard: str = "refuse"
    blend: float = 0.5


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a model.

    Attributes:
        verdict: "adopt", "clip", "blend" or "refuse".
        findings: what was compared; those that do not hold say why.
        state: the model to continue with; None: it is refused.
        fault: why it is no model at all; "": it is one.
        moved: length of the step, as a multiple of a single device's in the longest round; None: not known.
        warning: what a person should know of a model that is adopted; "": nothing.
    """

    verdict: str
    findings: tuple[Finding, ...] = ()
    state: StateDict | None = None
    fault: str = ""
    moved: float | None = None
    warning: str = ""

    @property
    def reason(self) -> str:
        """What is wrong with the model, in words; empty if nothing is."""
        return self.fault or broken(self.findings)

    def document(self) -> dict[str, Any]:
        """Return the decision as reports and the log have it, without the model, and no longer than they can take."""
        listed = self.findings
        if len(listed) > LISTED:
            listed = tuple(sorted(listed, key=lambda finding: finding.holds))[:LISTED]
        return {
            "verdict": self.verdict,
            "findings": [str(finding) for finding in listed],
            "off": self.reason[:LONGEST],
            "moved": self.moved,
            "warning": self.warning,
        }


def admit_model(
    new: object,
    current: StateDict,
    recent: Recent,
    bounds: Bounds,
    policy: Policy,
    evaluate: Evaluate | None = None,
) -> Decision:
    """Decide what becomes of a model that is to replace the global one.

    Args:
        new: what a method returned.
        current: the global model.
        recent: what recent rounds show.
        bounds: how far off it may be.
        policy: what is done with it if it is further off.
        evaluate: gives the accuracy of a model on data that the server has; None, or gives None: it has none.

    >>> import torch
    >>> one, two = {"w": torch.zeros(1)}, {"w": torch.tensor([8.0])}
    >>> admit_model(two, one, Recent(norms=[0.25]), Bounds(parameters={"w"}), Policy("clip")).state
    {'w': tensor([2.])}
    >>> admit_model({"w": torch.tensor([float("nan")])}, one, Recent(), Bounds(), Policy("adopt")).reason
    "no usable model: 'w' holds NaN or infinity"
    """
    try:
        state = _formed(new, current, bounds)
    except FedquitError as error:
        return Decision("refuse", fault=str(error))
    findings = _step(state, current, recent, bounds)
    share = moved_share(state, current, recent, bounds.parameters)
    decision = replace(
        _by_policy(policy, state, current, findings), moved=share, warning=_short_step(share, bounds.stronger)
    )
    if decision.state is None or evaluate is None or not bounds.keeps_accuracy:
        return decision
    before, after = evaluate(current), evaluate(decision.state)
    if before is None or after is None:
        return decision
    found = accuracy_findings(after, before, bounds)
    lost = policy.guard != "adopt" and bool(broken(found))
    all_findings = (*decision.findings, *found)
    if lost:
        return Decision("refuse", all_findings, moved=share)
    return replace(decision, findings=all_findings)


def _short_step(share: float | None, stronger: str) -> str:
    """Return a warning that a forget step was too short to have forgotten much; empty if it was not."""
    if share is None or share >= SHORT or not stronger:
        return ""
    return (
        f"the forget step is {share:.2g} times as long as one device's step in the longest round of training: "
        f"it can hardly have forgotten anything; {stronger}"
    )


def check_reply(
    new: StateDict, sent: StateDict, recent: Recent, bounds: Bounds, policy: Policy, *, training: bool
) -> None:
    """Refuse what one device hands back, where a method's result itself is too far off to be compared.

    Args:
        new: what the device hands back; its form has been checked.
        sent: what it was sent.
        recent: what recent rounds show.
        bounds: how far off it may be.
        policy: "adopt" takes it all the same.
        training: whether it was asked to train, on whatever model it was sent, not to forget.

    Raises:
        BadReplyError: saying what is off.
    """
    if bounds.step != "answers" or policy.guard == "adopt":
        return
    usual = recent if not training else Recent(norms=[] if recent.longest is None else [recent.longest])
    steps = step_findings(new, sent, usual, bounds, direction=False)
    off = broken((*steps, *check_buffers(new, sent, bounds.parameters)))
    if off:
        raise BadReplyError(f"its model is further off than recent rounds explain: {off}")


def _formed(new: object, current: StateDict, bounds: Bounds) -> StateDict:
    check_usable(new, current)
    state = cast("StateDict", new)  # check_usable has seen to it
    fault = broken(check_buffers(state, None, bounds.parameters))
    if fault:
        raise FedquitError(f"no usable model: {fault}")
    return state


def _step(state: StateDict, current: StateDict, recent: Recent, bounds: Bounds) -> tuple[Finding, ...]:
    if bounds.step != "result":
        return ()
    return (*step_findings(state, current, recent, bounds), *check_buffers(state, current, bounds.parameters))


def _by_policy(policy: Policy, state: StateDict, current: StateDict, findings: tuple[Finding, ...]) -> Decision:
    off = [finding for finding in findings if not finding.holds]
    if not off or policy.guard == "adopt":
        return Decision("adopt", findings, state)
    if policy.guard == "refuse" or not all(finding.scales for finding in off):
        return Decision("refuse", findings)
    scale = min(finding.bound / finding.value for finding in off)
    share = policy.blend if policy.guard == "blend" else 1.0
    step = difference(state, current, set(current))
    return Decision(policy.guard, findings, moved(current, step, scale * share))
