"""When to stop recovery: rules over the accuracies of the rounds so far.

After unlearning, ordinary rounds without the forgotten data repair what broke. A rule looks at the held-out accuracy
after each of them and says when it is enough. Rules are pure: the same history gives the same answer, so a server that
was killed asks again and continues. Every rule lets at least one round happen. Source: FedQUIT, arXiv 2408.07587, whose
own rule is `Oracle`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fedquit.errors import InputError
from fedquit.unlearning.setting_checks import check_count, check_share

ROUNDING = 1e-9  # in binary 0.52 - 0.05 is above 0.47, and must not be


@dataclass(frozen=True, slots=True)
class Stopped:
    """Why recovery ended, in words, and whether it reached its goal or only ran out of rounds."""

    reason: str
    reached: bool


class StopRule(Protocol):
    """Decides after every recovery round."""

    @property
    def max_rounds(self) -> int | None:
        """Rounds after which it stops at the latest, if that is known."""
        ...

    def stop(self, accuracies: Sequence[float], num_bytes: int) -> Stopped | None:
        """Return why to stop, or None to continue.

        Args:
            accuracies: held-out accuracy (0..1) after each recovery round so far, the last one last.
            num_bytes: bytes that recovery has sent and received so far.
        """
        ...


@dataclass(frozen=True, slots=True)
class Budget:
    """Stop when the rounds or the bytes are spent, whichever is first; the goal is the budget itself.

    Bytes are known after a round, so the last round may overrun `num_bytes`.

    >>> Budget(rounds=2).stop([0.4, 0.5], num_bytes=10)
    Stopped(reason='the budget of 2 rounds is spent', reached=True)
    """

    rounds: int | None = None
    num_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.rounds is None and self.num_bytes is None:
            raise InputError("a budget needs rounds or num_bytes")
        for field, value in (("rounds", self.rounds), ("num_bytes", self.num_bytes)):
            if value is not None:
                check_count(field, value)

    @property
    def max_rounds(self) -> int | None:
        """See `StopRule.max_rounds`."""
        return self.rounds

    def stop(self, accuracies: Sequence[float], num_bytes: int) -> Stopped | None:
        """See `StopRule.stop`."""
        if not accuracies:
            return None
        if self.rounds is not None and len(accuracies) >= self.rounds:
            return Stopped(f"the budget of {self.rounds} rounds is spent", reached=True)
        if self.num_bytes is not None and num_bytes >= self.num_bytes:
            return Stopped(f"the budget of {self.num_bytes} bytes is spent ({num_bytes})", reached=True)
        return None


@dataclass(frozen=True, slots=True)
class Utility:
    """Stop when held-out accuracy is back within `tolerance` of `reference`, `patience` rounds in a row.

    The reference is what the model reached before the request, which every deployment knows.

    >>> Utility(reference=0.9).stop([0.7, 0.895], num_bytes=0)
    Stopped(reason='accuracy 0.8950 is at most 0.01 below 0.9000, 1 round(s) in a row', reached=True)
    """

    reference: float
    tolerance: float = 0.01
    patience: int = 1
    max_rounds: int = 30

    def __post_init__(self) -> None:
        check_share("reference", self.reference)
        check_share("tolerance", self.tolerance)
        check_count("patience", self.patience)
        check_count("max_rounds", self.max_rounds)

    def stop(self, accuracies: Sequence[float], num_bytes: int) -> Stopped | None:  # noqa: ARG002 - the interface
        """See `StopRule.stop`."""
        goal = self.reference - self.tolerance - ROUNDING
        recent = accuracies[-self.patience :]
        if len(recent) == self.patience and all(accuracy >= goal for accuracy in recent):
            back = f"accuracy {recent[-1]:.4f} is at most {self.tolerance} below {self.reference:.4f}"
            return Stopped(f"{back}, {self.patience} round(s) in a row", reached=True)
        return _out_of_rounds(accuracies, self.max_rounds)


@dataclass(frozen=True, slots=True)
class Oracle:
    """Stop at the first round whose test accuracy reaches that of a model retrained without the data.

    For simulations only, to compare with the paper, which stops like this: a deployment that had the retrained model
    would need no unlearning, so the rounds it reports are fewer than anyone can know to run.

    >>> Oracle(target=0.8).stop([0.7], num_bytes=0) is None
    True
    """

    target: float
    max_rounds: int = 30

    def __post_init__(self) -> None:
        check_share("target", self.target)
        check_count("max_rounds", self.max_rounds)

    def stop(self, accuracies: Sequence[float], num_bytes: int) -> Stopped | None:  # noqa: ARG002 - the interface
        """See `StopRule.stop`; `accuracies` are on the test set."""
        if accuracies and accuracies[-1] >= self.target - ROUNDING:
            return Stopped(
                f"accuracy {accuracies[-1]:.4f} reaches the retrained model's {self.target:.4f}", reached=True
            )
        return _out_of_rounds(accuracies, self.max_rounds)


def _out_of_rounds(accuracies: Sequence[float], max_rounds: int) -> Stopped | None:
    if accuracies and len(accuracies) >= max_rounds:
        return Stopped(
            f"the goal was not reached in {max_rounds} rounds (accuracy {accuracies[-1]:.4f})", reached=False
        )
    return None
