"""Statistics of single clients' replies in a round, and the bounds that the guard derives from the last rounds.

Of each round the statistics of the steps' lengths are stored, and for some methods the updates themselves.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import median

from fedquit.server.lifecycle.training_history import History
from fedquit.strategies.guard.step_checks import Recent, longest_of
from fedquit.strategies.rounds.reply import Reply, ReplyDetail
from fedquit.unlearning.tensors.arithmetic import difference, norm, update_of
from fedquit.unlearning.tensors.convert import StateDict, tensors_of

WINDOW = 6
"""Rounds before that the guard compares with, and that say how long a client's step usually is."""
NORM, SPREAD = "update_norm", "update_norm_mad"


class ObservedRound:
    """Collects the statistics of the replies of a round that are used.

    Args:
        sent: the round's global model.
        names: its entries that are parameters, not buffers.
        history: where single updates are kept, as those of round `number`; None: they are not.
        norms: whether the lengths of steps are measured.
    """

    def __init__(
        self,
        sent: StateDict,
        names: Collection[str],
        *,
        history: History | None = None,
        number: int = 0,
        norms: bool = True,
    ) -> None:
        self._sent, self._names, self._norms = sent, names, norms
        self._history, self._number = history, number
        self._lengths: list[float] = []

    @property
    def reply_detail(self) -> ReplyDetail:
        """What is to be known of single replies."""
        if self._history is not None:
            return ReplyDetail.MODELS
        return ReplyDetail.LENGTHS if self._norms else ReplyDetail.NOTHING

    def take(self, reply: Reply) -> None:
        """Take in a reply that goes into the model."""
        if not self._norms and self._history is None:
            return
        if reply.length is not None and self._history is None:
            self._lengths.append(reply.length)
            return
        came = tensors_of(reply.arrays)
        if self._norms:
            self._lengths.append(norm(difference(came, self._sent, self._names)))
        if self._history is not None:
            self._history.add(self._number, reply.client, update_of(came, self._sent))

    def statistics(self) -> dict[str, float]:
        """Return the median length of the steps, parameters alone, and its median absolute deviation; {}: no step."""
        if not self._lengths:
            return {}
        middle = median(self._lengths)
        return {NORM: middle, SPREAD: median(abs(length - middle) for length in self._lengths)}


def recent_rounds(
    last: Sequence[Mapping[str, float]],
    lengths: Collection[float],
    models: Iterable[tuple[StateDict, StateDict]],
    names: Collection[str],
) -> Recent:
    """Return what the guard compares a method's model with.

    Args:
        last: statistics of the last rounds, as `ObservedRound` made them; of at most `WINDOW`.
        lengths: of all rounds there were, the median length of the steps; the two longest will do.
        models: global model before and after each of the last rounds, the latest last.
        names: the entries of a model, in the order of its layers.

    >>> recent_rounds([{"update_norm": 2.0, "update_norm_mad": 0.5}], [3.0], [], []).longest
    3.0
    """
    measured = [each for each in last if NORM in each]
    return Recent(
        norms=[each[NORM] for each in measured],
        spreads=[each[SPREAD] for each in measured],
        updates=[difference(after, before, names) for before, after in models],
        longest=longest_of(lengths),
    )
