"""Where the random choices of one request come from.

A driver gives them, and the lifecycle draws from nothing else: the same seeds give the same models under both drivers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from fedquit.unlearning.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class RequestSeeds:
    """The seeds of one request.

    Attributes:
        method: for what the method itself draws.
        exercise: from the number of exchanges before, and a client, to the seed of that client's exercise.
        recovery: of the samplings and the clients in rounds of recovery.
    """

    method: int
    exercise: Callable[[int, int], int]
    recovery: int

    @classmethod
    def of_phase(cls, seed: int, request: int, phase: str, number: int) -> Self:
        """Return the seeds of a simulation's request: its place among the requests decides.

        Args:
            seed: of the run.
            request: from 0.
            phase: that carries it out.
            number: of rounds that the model has been trained for.
        """
        return cls(
            method=derive_seed(seed, "request", request),
            exercise=lambda exchanges, client: derive_seed(seed, phase, number + exchanges, client),
            recovery=seed,
        )

    @classmethod
    def of_id(cls, seed: int, request: str) -> Self:
        """Return the seeds of a deployment's request: its id decides, so an attempt that was killed changes nothing.

        >>> RequestSeeds.of_id(7, "ab").method == RequestSeeds.of_id(7, "cd").method
        False
        """
        own = derive_seed(seed, "request", request)
        return cls(
            method=own,
            exercise=lambda exchanges, client: derive_seed(seed, "request", request, exchanges, client),
            recovery=own,
        )
