"""One comparison of a check: what was looked at, how much it is, and how much it may be."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """A comparison, and whether it holds.

    Attributes:
        what: was looked at, in words.
        value: how much it is.
        bound: how much it may be.
        at_least: whether it must be at least that much, not at most.
        scales: whether a shorter step mends it: the value shrinks with the step.

    >>> str(Finding("length of the step", 5.0, 4.0)), Finding("accuracy", 0.5, 0.3, at_least=True).holds
    ('length of the step 5 (at most 4)', True)
    """

    what: str
    value: float
    bound: float
    at_least: bool = False
    scales: bool = False

    @property
    def holds(self) -> bool:
        """Whether it is within its bound; what is no number is not."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        return f"{self.what} {self.value:.3g} ({'at least' if self.at_least else 'at most'} {self.bound:.3g})"


def broken(findings: tuple[Finding, ...]) -> str:
    """Return the findings that do not hold, in words; empty if all do.

    >>> broken((Finding("a", 1.0, 2.0), Finding("b", 3.0, 2.0)))
    'b 3 (at most 2)'
    """
    return "; ".join(str(finding) for finding in findings if not finding.holds)
