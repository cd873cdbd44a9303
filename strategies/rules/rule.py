"""What every rule of averaging is: settings as fields, traits as data, and one round at a time on explicit state."""

from dataclasses import dataclass
from typing import ClassVar

from fedquit.strategies.rounds.aggregate import Aggregate
from fedquit.unlearning.tensors.convert import Arrays


@dataclass(frozen=True, slots=True)
class Traits:
    """What a rule does and needs, for programs to read.

    Attributes:
        summary: one line for people.
        paper: where it comes from; "" if nowhere in particular.
        keeps: the state at the server from one round to the next.
        robust: the number of Byzantine clients that it tolerates in a round, for people; "" if none.
        reads_single: whether it needs every client's reply, not just their mean.
    """

    summary: str
    paper: str = ""
    keeps: str = "nothing"
    robust: str = ""
    reads_single: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What is known when a round begins.

    Attributes:
        sent: the global model.
        parameters: its entries that are parameters, not buffers.
        number: the round, counted from 1 since the rule began without state.
        asked: how many clients are asked.
        lr: the devices' learning rate in this round.
        seed: of the round's noise.
        state: the state that `Aggregate.result` returned in the round before; None: none yet.
    """

    sent: Arrays
    parameters: frozenset[str]
    number: int = 1
    asked: int = 1
    lr: float = 0.1
    seed: int = 0
    state: Arrays | None = None


class Rule:
    """What every rule is: override `begin`, and `needs` or `check_size` where few replies are too few."""

    __slots__ = ()

    name: ClassVar[str]
    traits: ClassVar[Traits]

    def needs(self) -> int:
        """Return the fewest good replies that a round can be made of."""
        return 1

    def check_size(self, asked: int) -> None:
        """Refuse rounds in which `asked` clients are asked, for another reason than `needs`.

        Raises:
            InputError: saying what is wrong.
        """

    def begin(self, opening: Opening) -> Aggregate:
        """Return what takes in the replies of a round."""
        raise NotImplementedError
