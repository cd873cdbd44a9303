"""A strategy of Flower's, unmodified, as a rule of ours.

Flower's object lives for one round: it is made from the settings, given the state of the round before, shown the
model and the replies that the guard let through, in the order of clients; then what must be kept is taken out of it. So
a run that was killed goes through the very same steps as one that was not. What Flower draws from Python's and numpy's
shared generators follows from the round's seed, and the generators are left as they were.
"""

import gc
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, ClassVar, cast

import numpy as np
from flwr.app import ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.exception import AggregationError, InconsistentMessageReplies
from flwr.serverapp.strategy import Strategy

from fedquit.errors import BadReplyError, FedquitError
from fedquit.strategies.grid.array_record import arrays_of_record, record_of
from fedquit.strategies.rounds.aggregate import Aggregate, Config
from fedquit.strategies.rules.rule import Opening, Rule
from fedquit.unlearning.tensors.convert import Arrays
from fedquit.unlearning.tensors.exact_mean import ExactMean

FLOWER_SHOWN_ONE_NODE = {"fraction_train": 1.0, "min_train_nodes": 1, "min_available_nodes": 1}
LARGEST_NORM = 2.0**48
Metrics = Mapping[str, float]


class FlowerRule(Rule):
    """A rule that is carried out by Flower's class."""

    __slots__ = ()

    flowers: ClassVar[Any]
    """Flower's class, whose settings are the fields of the rule; not needed where `strategy` is overridden."""

    def strategy(self, opening: Opening, replies: int) -> Strategy:  # noqa: ARG002 - for those that override it
        """Build the Flower strategy for a round with `replies` replies."""
        made: Strategy = self.flowers(**FLOWER_SHOWN_ONE_NODE, **asdict(cast(Any, self)))
        return made

    def client_config(self, opening: Opening) -> Config:
        """Return what Flower puts into the config of a round, besides the round's number."""
        with quiet(), seeded(opening.seed):
            config = _configured(self._made(opening, opening.asked, []), opening.number, {})
        return {key: value for key, value in config.items() if key != "server-round"}  # type: ignore[misc]

    def restore(self, strategy: Any, state: Arrays, names: Sequence[str]) -> None:
        """Put the state of the round before into Flower's object; `names` are the arrays it will be shown."""

    def to_keep(self, strategy: Any, names: Sequence[str]) -> Arrays | None:  # noqa: ARG002 - the interface
        """Take out of Flower's object what it must have in the next round; `names` are the arrays it was shown."""
        return None

    def _made(self, opening: Opening, replies: int, names: Sequence[str]) -> Strategy:
        strategy = self.strategy(opening, replies)
        if opening.state is not None:
            self.restore(strategy, opening.state, names)
        return strategy

    def carry_out(
        self, opening: Opening, shown: Arrays, replies: Sequence[tuple[Arrays, Metrics]]
    ) -> tuple[Arrays, Arrays | None]:
        """Have Flower make the new arrays, in the dtypes it gives them.

        Args:
            opening: of the round.
            shown: what Flower is to take for the global model.
            replies: arrays of the same names and metrics, in the order of clients.

        Raises:
            FedquitError: Flower made nothing, or NaN or infinity.
        """
        with (
            quiet(),
            seeded(opening.seed),
            cheap_collections(),
            np.errstate(all="ignore"),
        ):  # what is not finite is refused below
            try:
                strategy = self._made(opening, len(replies), list(shown))
                _configured(strategy, opening.number, shown)
                record, _ = strategy.aggregate_train(opening.number, [_message(*reply) for reply in replies])
            except (AggregationError, InconsistentMessageReplies, ValueError) as error:
                raise FedquitError(f"strategy '{self.name}': {error}") from error
        if record is None:
            raise FedquitError(f"strategy '{self.name}' made no model of {len(replies)} replies")
        new, state = arrays_of_record(record), self.to_keep(strategy, list(shown))
        self._check_finite({**new, **(state or {})})
        return new, state

    def model_of(self, arrays: Arrays, sent: Arrays) -> Arrays:
        """Return `as_sent`: what Flower computed in more digits may be beyond what the dtypes that are sent hold.

        Raises:
            FedquitError: it is.
        """
        with np.errstate(over="ignore"):  # refused below
            model = as_sent(arrays, sent)
        self._check_finite(model)
        return model

    def _check_finite(self, arrays: Arrays) -> None:
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise FedquitError(f"strategy '{self.name}': '{name}' holds NaN or infinity; try smaller settings")


class Stepped:
    """The exact mean of the replies is the one reply that Flower is shown; it makes a step of it.

    The step is for parameters. Buffers, such as batch normalisation's running variance, take the mean: an optimiser
    could turn their sign.
    """

    def __init__(self, rule: FlowerRule, opening: Opening) -> None:
        self.config: Config = rule.client_config(opening)
        self._rule, self._opening, self._mean = rule, opening, ExactMean()

    def add(self, client: int, arrays: Arrays, num_examples: int, metrics: Metrics) -> None:
        """See `Aggregate`."""
        del client, metrics
        self._mean.add(arrays, num_examples)

    def result(self) -> tuple[Arrays, Arrays | None]:
        """See `Aggregate`."""
        opening, mean = self._opening, self._mean.result()
        moving = {name: mean[name] for name in opening.sent if name in opening.parameters}
        shown = {name: opening.sent[name] for name in moving}
        new, state = self._rule.carry_out(opening, shown, [(moving, {"num-examples": 1})])
        return self._rule.model_of({**mean, **new}, opening.sent), state


class Gathered:
    """Flower is shown every reply, in the order of clients; all are in memory until the round ends."""

    def __init__(self, rule: "SingleReplies", opening: Opening) -> None:
        self.config: Config = rule.client_config(opening)
        self._rule, self._opening = rule, opening
        self._replies: dict[int, tuple[Arrays, int, Metrics]] = {}

    def add(self, client: int, arrays: Arrays, num_examples: int, metrics: Metrics) -> None:
        """See `Aggregate`."""
        if not norm(arrays) < LARGEST_NORM:
            raise BadReplyError("its values are too large to compare")
        self._rule.check_reply(self._opening, arrays, metrics)
        self._replies[client] = arrays, num_examples, metrics

    def result(self) -> tuple[Arrays, Arrays | None]:
        """See `Aggregate`."""
        rule, opening = self._rule, self._opening
        replies = [self._replies[client] for client in sorted(self._replies)]
        seen = [name for name in opening.sent if rule.sees(name, opening)]
        handed = [
            ({name: rule.hand(arrays[name], opening.sent[name]) for name in seen}, rule.say(count, metrics))
            for arrays, count, metrics in replies
        ]
        shown = {name: rule.hand(opening.sent[name], opening.sent[name]) for name in seen}
        made, state = rule.carry_out(opening, shown, handed)
        new = {name: rule.take(made[name], opening.sent[name]) for name in seen}
        left = [name for name in opening.sent if name not in new]
        rest = rule.rest([({name: arrays[name] for name in left}, count) for arrays, count, _ in replies])
        return rule.model_of({**new, **rest}, opening.sent), state


class SingleReplies(FlowerRule):
    """A rule that needs every reply; it may say what Flower sees of each, and which it refuses."""

    __slots__ = ()

    shifted: ClassVar[bool] = False
    """Show Flower how far each model is from the one sent, in float64: distances of small steps survive only so."""

    def begin(self, opening: Opening) -> Aggregate:
        """See `Rule`."""
        return Gathered(self, opening)

    def check_reply(self, opening: Opening, arrays: Arrays, metrics: Metrics) -> None:
        """Refuse a reply that this rule cannot use.

        Raises:
            BadReplyError: saying why.
        """

    def sees(self, name: str, opening: Opening) -> bool:
        """Say whether Flower is shown this entry: all but counters, such as batch normalisation's."""
        return opening.sent[name].dtype.kind == "f"

    def hand(self, array: Any, sent: Any) -> Any:
        """Return an array as Flower is shown it."""
        return array.astype(np.float64) - sent.astype(np.float64) if self.shifted else array

    def take(self, made: Any, sent: Any) -> Any:
        """Return what Flower made as the model's."""
        return sent.astype(np.float64) + made if self.shifted else made

    def say(self, num_examples: int, metrics: Metrics) -> Metrics:  # noqa: ARG002 - the interface
        """Return a reply's metrics in Flower's form."""
        return {"num-examples": num_examples}

    def rest(self, replies: Sequence[tuple[Arrays, int]]) -> Arrays:
        """Return what becomes of the entries that Flower is not shown: the median, which no one client moves far."""
        return {name: np.median([arrays[name] for arrays, _ in replies], axis=0) for name in replies[0][0]}


def weighted_mean(replies: Sequence[tuple[Arrays, int]]) -> Arrays:
    """Return the exact mean of arrays, weighted by numbers of samples."""
    mean = ExactMean()
    for arrays, count in replies:
        mean.add(arrays, count)
    return mean.result()


def as_sent(arrays: Arrays, sent: Arrays) -> Arrays:
    """Return `arrays` in the order and the dtypes of `sent`; integers are rounded.

    >>> as_sent({"n": np.array(2.6), "w": np.ones(1)}, {"w": np.zeros(1, np.float32), "n": np.array(0)})
    {'w': array([1.], dtype=float32), 'n': array(3)}
    """
    return {
        name: np.asarray(arrays[name] if old.dtype.kind == "f" else np.rint(arrays[name]), dtype=old.dtype)
        for name, old in sent.items()
    }


def norm(arrays: Arrays, minus: Arrays | None = None) -> float:
    """Return the Euclidean norm of all arrays together, or of how far they are from others.

    >>> norm({"a": np.array([3.0]), "b": np.array([[4.0]])})
    5.0
    """
    differences = [array.astype(np.float64) - (0 if minus is None else minus[name]) for name, array in arrays.items()]
    return float(np.sqrt(sum(float(np.square(difference).sum()) for difference in differences)))


def _configured(strategy: Strategy, number: int, shown: Arrays) -> ConfigRecord:
    """Have Flower configure a round for one node, and return the config; whom to ask is not Flower's to choose."""
    messages = list(strategy.configure_train(number, record_of(shown), ConfigRecord(), cast(Grid, _OneNode())))
    return next(iter(messages[0].content.config_records.values()))


class _OneNode:
    """As much of a grid as Flower's strategies ask of one."""

    def get_node_ids(self) -> list[int]:
        return [1]


def _message(arrays: Arrays, metrics: Metrics) -> Message:
    content = RecordDict({"arrays": record_of(arrays), "metrics": MetricRecord(dict(metrics))})
    return Message(content, 1, MessageType.TRAIN)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have Python's and numpy's shared generators begin at `seed`, and put them back."""
    before, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 - Flower draws from it
    random.seed(seed)
    bits = np.random.MT19937(np.random.SeedSequence(seed))
    np.random.set_state(cast(dict[str, Any], bits.state))  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpys)  # noqa: NPY002


@contextmanager
def cheap_collections() -> Iterator[None]:
    """Keep what is there now out of the garbage collections that Flower forces, one a reply, 0.15 s each with torch."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Flower from logging what a round's event says."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
