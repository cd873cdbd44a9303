"""Rules that some bad clients cannot move far, if there are few enough of them.

Sources: Yin et al. 2018, arXiv 1803.01498 (median, trimmed mean); Blanchard et al. 2017, arXiv 1703.02757 (Krum);
El Mhamdi et al. 2018, arXiv 1802.07927 (Bulyan). None but MultiKrum looks at numbers of samples, which clients state
themselves; MultiKrum weighs those that it chose by them.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from flwr.serverapp import strategy as flower

from fedquit.errors import InputError
from fedquit.strategies.rules.flower import SingleReplies
from fedquit.strategies.rules.rule import Traits
from fedquit.unlearning.setting_checks import check_count, check_number_of, is_number


@dataclass(frozen=True, slots=True)
class FedMedian(SingleReplies):
    """The median of each number of the model.

    >>> FedMedian().needs()
    3
    """

    name: ClassVar[str] = "fedmedian"
    flowers: ClassVar[Any] = flower.FedMedian
    traits: ClassVar[Traits] = Traits(
        "the median of each number", "arXiv 1803.01498", robust="fewer than half", reads_single=True
    )

    def needs(self) -> int:
        """See `Rule`: of two, the median is the mean."""
        return 3


@dataclass(frozen=True, slots=True)
class FedTrimmedAvg(SingleReplies):
    """The mean of each number of the model, the largest and smallest values left out.

    Attributes:
        beta: share of the replies left out at either end, rounded down to whole replies.

    >>> FedTrimmedAvg(beta=0.2).needs()
    5
    """

    name: ClassVar[str] = "fedtrimmedavg"
    flowers: ClassVar[Any] = flower.FedTrimmedAvg
    traits: ClassVar[Traits] = Traits(
        "the mean of each number without the largest and the smallest",
        "arXiv 1803.01498",
        robust="a share beta",
        reads_single=True,
    )

    beta: float = 0.2

    def __post_init__(self) -> None:
        if not (is_number(self.beta) and 0 < self.beta < 0.5):
            raise InputError(f"beta is {self.beta!r}; it must be above 0 and below 0.5")

    def needs(self) -> int:
        """See `Rule`: enough replies that one is left out at either end."""
        return next(replies for replies in range(3, int(2 / self.beta) + 3) if int(self.beta * replies) >= 1)


@dataclass(frozen=True, slots=True)
class Krum(SingleReplies):
    """The one model that is nearest to its neighbours.

    Attributes:
        num_malicious_nodes: f, how many bad clients to stand. Flower's default, 0, stands none; so it must be given.

    >>> Krum(num_malicious_nodes=1).needs()
    5
    """

    name: ClassVar[str] = "krum"
    flowers: ClassVar[Any] = flower.Krum
    traits: ClassVar[Traits] = Traits(
        "the one model nearest to its neighbours",
        "arXiv 1703.02757",
        robust="f of 2f + 3",
        reads_single=True,
    )
    shifted: ClassVar[bool] = True

    num_malicious_nodes: int

    def __post_init__(self) -> None:
        check_number_of("num-malicious-nodes", self.num_malicious_nodes)

    def needs(self) -> int:
        """See `Rule`: 2f + 3."""
        return 2 * self.num_malicious_nodes + 3


@dataclass(frozen=True, slots=True)
class MultiKrum(SingleReplies):
    """The mean of several models that are nearest to their neighbours, weighted by numbers of samples.

    Attributes:
        num_malicious_nodes: f, how many bad clients to stand; must be given.
        num_nodes_to_select: m, how many models go into the mean. Flower's default, 1, is krum; so it must be given.

    >>> MultiKrum(num_malicious_nodes=1, num_nodes_to_select=4).needs()
    7
    """

    name: ClassVar[str] = "multikrum"
    flowers: ClassVar[Any] = flower.MultiKrum
    traits: ClassVar[Traits] = Traits(
        "the mean of the models nearest to their neighbours",
        "arXiv 1703.02757",
        robust="f of 2f + 3, or of m + f + 2",
        reads_single=True,
    )
    shifted: ClassVar[bool] = True

    num_malicious_nodes: int
    num_nodes_to_select: int

    def __post_init__(self) -> None:
        check_number_of("num-malicious-nodes", self.num_malicious_nodes)
        check_count("num-nodes-to-select", self.num_nodes_to_select)

    def needs(self) -> int:
        """See `Rule`: 2f + 3, and m + f + 2, for a model is compared with all but f + 2."""
        return self.num_malicious_nodes + 2 + max(self.num_malicious_nodes + 1, self.num_nodes_to_select)


@dataclass(frozen=True, slots=True)
class Bulyan(SingleReplies):
    """MultiKrum's choice, then the mean of each number over those nearest to its median.

    Attributes:
        num_malicious_nodes: f, how many bad clients to stand. Flower's default, 0, stands none; so it must be given.

    >>> Bulyan(num_malicious_nodes=1).needs()
    7
    """

    name: ClassVar[str] = "bulyan"
    flowers: ClassVar[Any] = flower.Bulyan
    traits: ClassVar[Traits] = Traits(
        "MultiKrum's choice, then of each number those nearest to the median",
        "arXiv 1802.07927",
        robust="f of 4f + 3",
        reads_single=True,
    )
    shifted: ClassVar[bool] = True

    num_malicious_nodes: int

    def __post_init__(self) -> None:
        check_number_of("num-malicious-nodes", self.num_malicious_nodes)

    def needs(self) -> int:
        """See `Rule`: 4f + 3."""
        return 4 * self.num_malicious_nodes + 3
