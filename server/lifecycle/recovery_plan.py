"""When recovery ends: the one function that builds a stop rule from a driver's settings and measurements."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedquit.unlearning.stop_rules import Budget, Oracle, Stopped, StopRule, Utility


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """The goal of recovery, and its limits.

    Attributes:
        rule: "utility", "oracle" or "budget"; see `fedquit.unlearning.stop_rules`.
        rounds: at most; with "budget" exactly.
        num_bytes: budget: recovery ends at this many bytes; 0: no limit.
        tolerance: utility: how far below the reference is near enough; `patience`: for how many rounds in a row.
        lost: rounds of training that a method gave up by going back to an earlier model; 0: it did not go back.
    """

    rule: str
    rounds: int
    num_bytes: int = 0
    tolerance: float = 0.01
    patience: int = 1
    lost: int = 0


def stop_rule(plan: RecoveryPlan, reference: float | None) -> StopRule:
    """Return the rule that says when recovery ends.

    Args:
        plan: of the recovery.
        reference: accuracy to reach: of the model before the request, or for "oracle" of the retrained model; None: it
            was not measured, and rounds alone decide.

    >>> stop_rule(RecoveryPlan("utility", rounds=30, tolerance=0.02), 0.9)
    Utility(reference=0.9, tolerance=0.02, patience=1, max_rounds=30)
    >>> stop_rule(RecoveryPlan("utility", rounds=30), None)
    Budget(rounds=30, num_bytes=None)
    """
    most = max(plan.rounds, plan.lost)
    made: StopRule
    if plan.rule == "budget" or reference is None:
        made = Budget(rounds=most, num_bytes=plan.num_bytes or None)
    elif plan.rule == "oracle":
        made = Oracle(target=reference, max_rounds=most)
    else:
        made = Utility(min(1.0, reference), plan.tolerance, plan.patience, most)
    return TrainedAgain(made, plan.lost) if plan.lost else made


@dataclass(frozen=True, slots=True)
class TrainedAgain:
    """A rule for a model that is retrained without the data: it need not reach the accuracy it had with the data.

    Attributes:
        rule: of the recovery.
        lost: rounds after which the goal is reached whatever the accuracy, once the rule stops.
    """

    rule: StopRule
    lost: int

    @property
    def max_rounds(self) -> int | None:
        """See `StopRule.max_rounds`."""
        return self.rule.max_rounds

    def stop(self, accuracies: Sequence[float], num_bytes: int) -> Stopped | None:
        """See `StopRule.stop`."""
        stopped = self.rule.stop(accuracies, num_bytes)
        if stopped is None or len(accuracies) < self.lost:
            return stopped
        return Stopped(f"{stopped.reason}; the model was trained again for as long as before", reached=True)
