"""Training whose models are summed where they are made: what a process does with the clients of a round."""

import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from fedquit.client.messages.plain_training import PlainTraining, TrainMetrics
from fedquit.errors import BadReplyError
from fedquit.settings import Scalar, Settings
from fedquit.simulations.engine.claims import ours
from fedquit.strategies.cost_log.flower_objects import Chunks, digests_of_array
from fedquit.strategies.grid.summed_log import sent_as
from fedquit.strategies.grid.summed_replies import PlainRound, SummedReply
from fedquit.strategies.guard.buffers import check_buffers
from fedquit.strategies.guard.reply_checks import check_forms, check_model, checked_numbers
from fedquit.strategies.guard.round_screen import refuse_buffers
from fedquit.unlearning.tensors.accelerator import on_cpu
from fedquit.unlearning.tensors.arithmetic import StepLength
from fedquit.unlearning.tensors.convert import Arrays, arrays_of, npy_head, tensors_of
from fedquit.unlearning.tensors.exact_mean import LIMIT, ExactMean, bounds_of

SLICE = 0.25
"""Seconds after which a worker hands over what it has trained one by one (the sums travel too, which takes time), and
the main process leaves stacks to a worker."""


@dataclass(frozen=True, slots=True)
class SumTask:
    """What a worker must know of a round, besides which clients it trains.

    Attributes:
        plain: the round.
        run_config: of the run.
        clients: of the federation.
        key: with which digests of the cost log are made.
        stacked: whether the clients of a parcel are trained at once, where that can be.
    """

    plain: PlainRound
    run_config: Mapping[str, Scalar]
    clients: int
    key: int
    stacked: bool


@dataclass(frozen=True, slots=True)
class SumParcel:
    """A round, for every worker that takes clients of it.

    Attributes:
        task: the round.
        asked: node, client and seed of each client of the round.
        round: its number among those whose clients are claimed.
        stack: clients that are taken at a time.
    """

    task: SumTask
    asked: tuple[tuple[int, int, int], ...]
    round: int
    stack: int


@dataclass(slots=True)
class SumPart:
    """Some replies of a round, and the sums of the models of those that are in order.

    Attributes:
        replies: without their models.
        mean: of the models that were trained one by one.
        stacks: the sum and the number of samples of each stack; a sum takes a quarter of the bytes of a mean.
    """

    replies: list[SummedReply] = field(default_factory=list)
    mean: ExactMean = field(default_factory=ExactMean)
    stacks: list[tuple[Arrays, int]] = field(default_factory=list)

    def add_to(self, mean: ExactMean) -> None:
        """Add the sums to a mean; they must not be used afterwards."""
        mean.merge(self.mean)
        for arrays, weight in self.stacks:
            mean.add_sum(arrays, weight)


def sum_parcel(parcel: SumParcel) -> Generator[SumPart, None, SumPart]:
    """Take clients that nobody has taken yet, and train them: yield a part for each stack, or for `SLICE` seconds.

    Returns:
        The last part, which may be empty.
    """
    until, summing, claims = time.monotonic() + SLICE, Summing(parcel.task), ours()
    for own in claims.taken(parcel.round, parcel.stack):
        summing.train(parcel.asked[own.start : own.stop])
        if (summing.part.stacks or time.monotonic() > until) and claims.are_left():
            yield summing.taken()
            until = time.monotonic() + SLICE
    return summing.taken()


class Summing:
    """One round in one process.

    Args:
        task: the round.
        mean: what models that are trained one by one are added to; None: that of `part`.

    Attributes:
        part: what was made of it, and not yet taken.
    """

    def __init__(self, task: SumTask, mean: ExactMean | None = None) -> None:
        self._task, self._sent, self._mean, self.part = task, task.plain.arrays, mean, SumPart()
        self._tensors = tensors_of(self._sent)
        settings = Settings.from_run_config(task.run_config, task.clients)
        self._training = PlainTraining(settings, self._tensors, task.plain.config)
        self._heads = [npy_head(array.dtype, array.shape) for array in self._sent.values()]

    @cached_property
    def _step(self) -> StepLength:
        return StepLength(self._tensors, self._task.plain.parameters or self._sent)

    def train(self, asked: Sequence[tuple[int, int, int]]) -> None:
        """Train clients, and add what is known of them to `part`."""
        stacked = self._stacked(asked) if self._task.stacked else None
        self.part.replies += [self._reply(*one) for one in asked] if stacked is None else stacked

    def taken(self) -> SumPart:
        """Return `part`, and begin another."""
        part, self.part = self.part, SumPart()
        return part

    def _reply(self, node: int, client: int, seed: int) -> SummedReply:
        try:
            done, metrics = self._training.train(client, seed)
            arrays = arrays_of(on_cpu(done.send))
        except (Exception, SystemExit) as error:  # as `call` does: it is the reply's error
            said = " ".join(f"{type(error).__name__}: {error}".split())
            return SummedReply(node, said, {}, ready=time.monotonic())
        return self._checked(node, arrays, metrics)

    def _checked(self, node: int, arrays: Arrays, metrics: TrainMetrics) -> SummedReply:
        """Add a model to the sum if it is in order."""
        refused, length, plain = "", None, self._task.plain
        try:
            check_forms(arrays, self._sent)
        except BadReplyError as reason:
            names, kinds, chunks = sent_as(arrays, self._task.key)
            return SummedReply(node, str(reason), metrics, chunks, None, time.monotonic(), (names, kinds))
        try:
            count, _ = checked_numbers(metrics)
            if plain.parameters is not None and len(plain.parameters) < len(arrays):
                refuse_buffers(check_buffers(arrays, self._sent, plain.parameters))
            ordered = {name: arrays[name] for name in self._sent}
            mean = self.part.mean if self._mean is None else self._mean
            mean.add(ordered, count)  # which refuses what is not finite, too
        except (BadReplyError, OverflowError) as reason:
            refused = self._not_finite(arrays) or str(reason)
        else:
            length = self._step.of(arrays) if plain.lengths else None
        digests = self._digests(arrays[name] for name in self._sent)
        return SummedReply(node, refused, metrics, digests, length, time.monotonic())

    def _not_finite(self, arrays: Arrays) -> str:
        """Return how the guard refuses a model for what it holds, which it looks at first; "": it does not."""
        try:
            check_model(arrays, self._sent)
        except BadReplyError as reason:
            return str(reason)
        return ""

    def _digests(self, arrays: Iterable[NDArray[Any]]) -> tuple[Chunks, ...]:
        """Return the digests of a model's arrays as they would have travelled."""
        key = self._task.key
        return tuple([digests_of_array(head, array, key) for head, array in zip(self._heads, arrays, strict=True)])

    def _stacked(self, asked: Sequence[tuple[int, int, int]]) -> list[SummedReply] | None:
        """Train clients at once; None: they can only be trained one by one, each with an error of its own if any."""
        try:
            found = self._training.train_stacked([client for _, client, _ in asked], [seed for *_, seed in asked])
        except (Exception, SystemExit):
            return None
        if found is None:
            return None
        stack, metrics = found
        nodes = [asked[place][0] for place in stack.places]
        weights = {name: stack.weights[name] for name in self._sent}
        counts = [int(said["num-examples"]) for said in metrics]
        lengths = list(stack.lengths()) if self._task.plain.lengths else None
        try:
            for said in metrics:
                checked_numbers(said)
            if not stack.largest(lengths) * max(counts) < LIMIT:  # large values of two clients may cancel in the sum
                raise OverflowError("a value is too large to average")
            arrays = arrays_of(stack.sums(counts))
            bounds_of(arrays, 1)
        except (BadReplyError, OverflowError):
            rows = [{name: value[row].numpy() for name, value in weights.items()} for row in range(len(nodes))]
            return [self._checked(*one) for one in zip(nodes, rows, metrics, strict=True)]
        self.part.stacks.append((arrays, sum(counts)))
        each: Sequence[float | None] = lengths or [None] * len(nodes)
        models = zip(*[value.numpy() for value in weights.values()], strict=True)
        return [
            SummedReply(node, "", said, self._digests(model), length, time.monotonic())
            for node, said, model, length in zip(nodes, metrics, models, each, strict=True)
        ]
