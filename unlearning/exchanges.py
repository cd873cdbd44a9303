"""The requests that a method will send to clients, known before any is sent: its cost is estimated from them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedquit.errors import unknown

EXTRAS = ("nothing", "state", "parameters")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call of `Session.ask`: requests to some clients, and their replies.

    Attributes:
        exercise: "train" or "forget".
        clients: who is asked: forgotten clients alone, or remaining clients alone.
        step: which of the method's device procedures "forget" runs.
        config: names of the numbers that are sent along.
        extra: the tensors sent along with the model: "nothing", another "state" of its kind, or "parameters" alone.
        passes: how often a device goes through the samples, forwards and backwards; forwards alone counts a third.
            None: as often as in an ordinary round ("train"), or not known ("forget").

    >>> Exchange("forget", (3,), config=("radius",), extra="parameters").clients
    (3,)
    """

    exercise: str
    clients: tuple[int, ...]
    step: str = "forget"
    config: tuple[str, ...] = ()
    extra: str = "nothing"
    passes: float | None = None

    def __post_init__(self) -> None:
        if self.extra not in EXTRAS:
            raise unknown("extra", self.extra, EXTRAS)


class Log(Protocol):
    """Which rounds of training were kept, and who took part in any of them; see `session.History`."""

    def rounds(self) -> Sequence[int]:
        """Return the rounds that were kept, in order; empty if none."""
        ...

    def participants(self, number: int) -> Collection[int]:
        """Return who took part in a round, kept or not; nobody in one that was not run."""
        ...


class Outlook(Protocol):
    """What is known of a request before it is served; every `session.Session` is one."""

    @property
    def forgotten(self) -> tuple[int, ...]:
        """The clients with something to forget, in order."""
        ...

    @property
    def remaining(self) -> tuple[int, ...]:
        """The clients that take part and have nothing to forget, in order."""
        ...

    @property
    def history(self) -> Log:
        """What was kept of training."""
        ...
