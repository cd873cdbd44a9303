"""What keeps one reply from deciding a round: buffers, weight and step are bounded, and the result is looked at.

The replies are held on disk until all have come; then the round is made of them in the order of clients. If what it
makes cannot be used (not finite, or below the floor of accuracy on samples that the server holds), it is made again
without each one in turn. Where that helps, the round continues as if that one had not been asked.

Only the one without whom alone the round can be used is *found*, and may be kept out for a time. If the honest replies
together make a model that can be used, leaving out the liar helps; so an honest client is never the only one whose
leaving helps, whatever a single other one sends.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from fedquit.errors import BadReplyError, FedquitError
from fedquit.strategies.guard.buffers import check_buffers
from fedquit.strategies.guard.client_weights import believed, capped
from fedquit.strategies.guard.clipping import clipped, groups_of, length, most, next_usual
from fedquit.strategies.rounds.held_replies import Held
from fedquit.strategies.rounds.reply import Made, OnReply, Reply
from fedquit.unlearning.tensors.convert import Arrays

USUAL = "usual_"
LEFT_OUT = "left out: "
"""How the reason begins of a reply that is in order by itself, and without which the round can be used."""
TIMES = 10.0
"""Largest allowed ratio of an update's norm to the model's norm; beyond it a reply is refused."""
NOTED = 4.0
"""An update that exceeds its bound by this factor is reported; honest ones are shorter."""
WORK = 4096
"""Replies read at most to find who it was; with many clients only those that could move the mean most are tried."""
COMPARED = 20
"""Replies with whose buffers those of another are compared."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a model is worth: why it cannot be used, or ""; of two models the one with the higher score is better."""

    reason: str = ""
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one reply may do to a round.

    Attributes:
        folder: where replies are held.
        weight_cap: of a client's share of the weights; see `capped`. 0: none, and what it says is believed.
        clip: largest allowed ratio of an update's norm to the usual one; 0: no bound.
        usual: group of entries -> how long steps usually were in rounds before; see `clipping`.
        before: client -> samples that it counted for before.
        look: says what a model is worth.
        on_bounded: called with what in a reply exceeds its bound by far: the client, and facts of it.
    """

    folder: Path
    weight_cap: float = 0.0
    clip: float = 0.0
    usual: Mapping[str, Sequence[float]] = field(default_factory=dict)
    before: Mapping[int, int] = field(default_factory=dict)
    look: Callable[[Arrays], Verdict] = lambda _arrays: Verdict()
    on_bounded: Callable[[int, dict[str, Any]], None] = lambda _client, _facts: None


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a round.

    Attributes:
        made: the model and whose replies are in it; None: no model that could be used.
        reason: why the model of all replies could not be used; "" if it could.
        found: the one that is to blame for that; None: nobody, or not for certain.
        measures: `usual_step` and such, which the next rounds get as `Limits.usual`.
    """

    made: Made | None
    reason: str = ""
    found: int | None = None
    measures: Mapping[str, float] = field(default_factory=dict)


def usual_of(measures: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return what was usual in some rounds, as `Limits.usual`, from the measures that `Settled` had of them.

    >>> usual_of([{"usual_step": 2.0, "loss": 1.0}, {}, {"usual_step": 3.0}])
    {'step': [2.0, 3.0]}
    """
    usual: dict[str, list[float]] = {}
    for each in measures:
        for name, value in each.items():
            if name.startswith(USUAL):
                usual.setdefault(name.removeprefix(USUAL), []).append(value)
    return usual


Make = Callable[[Iterable[Reply], OnReply], Made]


def refuse_buffers(found: Sequence[object]) -> None:
    """Refuse a reply of whose buffers something was found.

    Raises:
        BadReplyError: saying what.
    """
    if found:
        raise BadReplyError("; ".join(map(str, found)))


def _nobody(_client: int, _reason: str | None) -> None:
    """Tell nobody."""


class Screen:
    """One round's replies, held until the round is settled; use it as a context manager.

    Args:
        limits: on one reply.
        sent: the round's global model.
        parameters: its entries that are parameters, not buffers.
    """

    def __init__(self, limits: Limits, sent: Arrays, parameters: Collection[str]) -> None:
        self.limits, self._sent, self._parameters = limits, sent, parameters
        self._groups = groups_of(sent, parameters)
        nothing = {name: np.zeros((), sent[name].dtype) for name in self._groups.get("step", ())}
        self._size = length(sent, nothing, nothing)
        self._held = Held(limits.folder)
        self._heads: dict[int, Reply] = {}
        self._lengths: dict[str, dict[int, float]] = {group: {} for group in self._groups}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.clear()

    def settle(self, replies: Iterable[Reply], make: Make, needs: int, on_reply: OnReply) -> Settled:
        """Take in replies as they come, and return what becomes of them.

        Args:
            replies: that are in order by themselves.
            make: makes a model of some of them, and says which it used.
            needs: of how many at least.
            on_reply: called with each that is not used after all, and why.
        """
        for reply in replies:
            try:
                self._take(reply)
            except BadReplyError as wrong:
                on_reply(reply.client, str(wrong))
        for client, reason in self._wrong_buffers():
            del self._heads[client]
            on_reply(client, reason)
        self._tell_bounded()
        made, verdict = self._try(self._heads, make, on_reply)
        used = tuple(self._heads) if made is None else made.used
        if made is not None and len(used) < needs:
            return Settled(made)
        if len(used) < len(self._heads):  # the rule refused some, and weights and steps are bounded beside the others'
            made, verdict = self._try(used, make, _nobody)
        if not verdict.reason:
            return Settled(made, measures=self._usual(used))
        passing, all_tried = self._without_one(used, make, needs)
        if not passing:
            for client in used:
                on_reply(client, f"{LEFT_OUT}the round cannot be used, nor without any one reply: {verdict.reason}")
            return Settled(None, verdict.reason, measures=self._usual(used))
        out = max(passing, key=lambda client: (passing[client], -client))
        alone = all_tried and len(passing) == 1
        sure = "" if alone else "the round can be used without it, as without others, and "
        on_reply(out, f"{LEFT_OUT}{sure}with it {verdict.reason}")
        rest = [client for client in used if client != out]
        again, _ = self._try(rest, make, _nobody)
        return Settled(again, verdict.reason, out if alone else None, self._usual(rest))

    def _try(self, clients: Collection[int], make: Make, on_reply: OnReply) -> tuple[Made | None, Verdict]:
        """Return what the replies of these clients make, if anything, and what it is worth."""
        try:
            made = make(self.replies(clients), on_reply)
            return made, self.limits.look(made.arrays) if made.arrays else Verdict("too few replies can be used")
        except FedquitError as error:
            return None, Verdict(str(error))

    def replies(self, clients: Collection[int]) -> Iterator[Reply]:
        """Yield the replies of these clients, as if the others had not been asked: weighted and shortened."""
        counts, at_most = self._counts(clients), self._at_most(clients)
        weights = capped(counts, self.limits.weight_cap)
        for client in sorted(clients):
            scales = {
                group: at_most[group] / lengths[client] if lengths[client] > at_most[group] else 1.0
                for group, lengths in self._lengths.items()
            }
            arrays = clipped(self._held.get(client), self._sent, self._groups, scales)
            head = self._heads[client]
            yield replace(head, arrays=arrays, num_examples=counts[client], weight=weights[client])

    def _take(self, reply: Reply) -> None:
        """Hold a reply.

        Raises:
            BadReplyError: its step is absurdly long.
        """
        lengths = {group: length(reply.arrays, self._sent, names) for group, names in self._groups.items()}
        if lengths.get("step", 0.0) > TIMES * max(1.0, self._size):
            model = f"the model {self._size:.3g}: at most {TIMES:g} times"
            raise BadReplyError(f"its step is {lengths['step']:.3g} long, and {model}")
        self._held.put(reply.client, reply.arrays)
        self._heads[reply.client] = replace(reply, arrays={})
        for group, its in lengths.items():
            self._lengths[group][reply.client] = its

    def _wrong_buffers(self) -> list[tuple[int, str]]:
        """Return whose buffers cannot be, beside those that were sent and those of the others, and why."""
        names = [name for name in self._sent if name not in self._parameters]
        if not names:
            return []
        buffers = {
            client: {name: array for name, array in self._held.get(client).items() if name in names}
            for client in sorted(self._heads)
        }
        sent, wrong = {name: self._sent[name] for name in names}, []
        for client, own in buffers.items():
            others = [other for number, other in buffers.items() if number != client]
            few = others[:: max(1, -(-len(others) // COMPARED))]
            found = check_buffers(own, sent, self._parameters, few)
            if found:
                wrong.append((client, "; ".join(map(str, found))))
        return wrong

    def _counts(self, clients: Collection[int]) -> dict[int, int]:
        """Return how many samples each of these clients is believed to have, by what these say."""
        said = {client: self._heads[client].num_examples for client in clients}
        return believed(said, self.limits.before) if self.limits.weight_cap else said

    def _tell_bounded(self) -> None:
        """Tell of what in a reply is far more than it may be."""
        counts, at_most = self._counts(self._heads), self._at_most(self._heads)
        for client, head in sorted(self._heads.items()):
            if counts[client] < head.num_examples:
                self._tell(client, "num-examples", head.num_examples, counts[client])
            for group, lengths in self._lengths.items():
                if lengths[client] > NOTED * at_most[group]:
                    self._tell(client, f"length of its {group}", lengths[client], at_most[group])

    def _tell(self, client: int, what: str, said: float, at_most: float) -> None:
        self.limits.on_bounded(client, {"what": what, "said": said, "at_most": at_most})

    def _at_most(self, clients: Collection[int]) -> dict[str, float]:
        """Return how long the steps of a round of these clients may be."""
        limits = self.limits
        return {
            group: most([lengths[client] for client in sorted(clients)], limits.usual.get(group, ()), limits.clip)
            if limits.clip and clients
            else float("inf")
            for group, lengths in self._lengths.items()
        }

    def _usual(self, clients: Collection[int]) -> dict[str, float]:
        """Return what is usual after a round of these clients."""
        at_most, times = self._at_most(clients), self.limits.clip or 1.0
        found = {
            group: next_usual([lengths[client] for client in clients], at_most[group], times)
            for group, lengths in self._lengths.items()
        }
        return {f"{USUAL}{group}": usual for group, usual in found.items() if usual is not None}

    def _without_one(self, used: Sequence[int], make: Make, needs: int) -> tuple[dict[int, float], bool]:
        """Return without which one the round can be used, and how good it is then; and whether all were tried."""
        if len(used) <= needs:
            return {}, False
        weights = capped(self._counts(used), self.limits.weight_cap)
        at_most = self._at_most(used)

        def influence(client: int) -> float:
            return weights[client] * max(
                (min(lengths[client], at_most[group]) for group, lengths in self._lengths.items()), default=0.0
            )

        suspects = sorted(used, key=lambda client: (-influence(client), client))[: max(1, WORK // len(used))]
        passing = {}
        for client in suspects:
            _, verdict = self._try([c for c in used if c != client], make, _nobody)
            if not verdict.reason:
                passing[client] = verdict.score
        return passing, len(suspects) == len(used)
