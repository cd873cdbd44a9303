"""Training whose models are summed where they are made: what a worker does with the clients of a round."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedquit.client.messages.message_records import head_of
from fedquit.client.messages.plain_training import PlainTraining, TrainMetrics
from fedquit.errors import BadReplyError
from fedquit.settings import Scalar, Settings
from fedquit.simulations.engine.claims import claimed
from fedquit.strategies.cost_log.flower_objects import Chunks, digests_of_parts
from fedquit.strategies.grid.summed_replies import PlainRound, SummedReply
from fedquit.strategies.guard.buffers import check_buffers
from fedquit.strategies.guard.reply_checks import check_forms, check_model, checked_numbers
from fedquit.strategies.guard.round_screen import refuse_buffers
from fedquit.unlearning.tensors.accelerator import on_cpu
from fedquit.unlearning.tensors.arithmetic import StepLength
from fedquit.unlearning.tensors.convert import Arrays, arrays_of, tensors_of
from fedquit.unlearning.tensors.exact_mean import ExactMean

SLICE = 0.25
"""Seconds after which a worker hands over what it has: the sums travel with it, so more often would cost time."""


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
    """A worker's part of a round: the clients that it takes, for `SLICE` seconds.

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


@dataclass(frozen=True, slots=True)
class SumPart:
    """What a worker has made of its part: replies, and the sum of those that are in order."""

    replies: list[SummedReply]
    mean: ExactMean


def sum_parcel(parcel: SumParcel) -> SumPart:
    """Take clients that nobody has taken yet, and train them."""
    until, mean, replies = time.monotonic() + SLICE, ExactMean(), list[SummedReply]()
    summing = Summing(parcel.task, mean)
    for own in claimed(parcel.round, parcel.stack, len(parcel.asked)):
        replies += summing.replies(parcel.asked[own.start : own.stop])
        if time.monotonic() > until:
            break
    return SumPart(replies, mean)


class Summing:
    """One round in one process.

    Args:
        task: the round.
        mean: what models are added to.
    """

    def __init__(self, task: SumTask, mean: ExactMean) -> None:
        self._task, self._sent, self._mean = task, task.plain.arrays, mean
        self._tensors = tensors_of(self._sent)
        settings = Settings.from_run_config(task.run_config, task.clients)
        self._training = PlainTraining(settings, self._tensors, task.plain.config)
        self._heads = {name: head_of(array.dtype, array.shape) for name, array in self._sent.items()}
        self._step = StepLength(self._tensors, task.plain.parameters or self._sent)

    def replies(self, asked: Sequence[tuple[int, int, int]]) -> list[SummedReply]:
        """Train clients, and return what is known of their replies."""
        stacked = self._stacked(asked) if self._task.stacked else None
        return [self._reply(*one) for one in asked] if stacked is None else stacked

    def _reply(self, node: int, client: int, seed: int) -> SummedReply:
        try:
            done, metrics = self._training.train(client, seed)
            arrays = arrays_of(on_cpu(done.send))
        except (Exception, SystemExit) as error:  # as `call` does: it is the reply's error
            said = " ".join(f"{type(error).__name__}: {error}".split())
            return SummedReply(node, said, {}, ready=time.monotonic())
        return self._taken(node, arrays, metrics)

    def _taken(self, node: int, arrays: Arrays, metrics: TrainMetrics) -> SummedReply:
        """Add a model to the sum if it is in order."""
        refused, length, plain = "", None, self._task.plain
        try:
            check_forms(arrays, self._sent)
            count, _ = checked_numbers(metrics)
            if plain.parameters is not None and len(plain.parameters) < len(arrays):
                refuse_buffers(check_buffers(arrays, self._sent, plain.parameters))
            ordered = {name: arrays[name] for name in self._sent}
            self._mean.add(ordered, count)  # which refuses what is not finite, too
        except (BadReplyError, OverflowError) as reason:
            refused = self._not_finite(arrays) or str(reason)
        else:
            length = self._step.of(arrays) if plain.lengths else None
        return SummedReply(node, refused, metrics, self._digests(arrays), length, time.monotonic())

    def _not_finite(self, arrays: Arrays) -> str:
        """Return how the guard refuses a model for what it holds, which it looks at first; "": it does not."""
        try:
            check_model(arrays, self._sent)
        except BadReplyError as reason:
            return str(reason)
        return ""

    def _digests(self, arrays: Arrays) -> tuple[Chunks, ...]:
        """Return the digests of the arrays as they would have travelled."""
        return tuple(
            digests_of_parts(head, np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data, self._task.key)
            for name, head in self._heads.items()
        )

    def _stacked(self, asked: Sequence[tuple[int, int, int]]) -> list[SummedReply] | None:
        """Train clients at once; None: they can only be trained one by one, each with an error of its own if any."""
        try:
            found = self._training.train_stacked([client for _, client, _ in asked], [seed for *_, seed in asked])
        except Exception:
            return None
        if found is None:
            return None
        stack, metrics = found
        nodes = [asked[place][0] for place in stack.places]
        weights = {name: stack.weights[name] for name in self._sent}
        counts = [int(said["num-examples"]) for said in metrics]
        factors = torch.tensor(counts, dtype=torch.float32)
        rows = [{name: value[row].numpy() for name, value in weights.items()} for row in range(len(nodes))]
        try:
            for said in metrics:
                checked_numbers(said)
            sums = {
                name: torch.mv(value.reshape(len(nodes), -1).t(), factors.to(value.dtype)).numpy()
                for name, value in weights.items()
            }
            shaped = {name: value.reshape(self._sent[name].shape) for name, value in sums.items()}
            self._mean.add_sum(shaped, sum(counts))
        except (BadReplyError, OverflowError):
            return [self._taken(*one) for one in zip(nodes, rows, metrics, strict=True)]
        lengths = self._lengths(weights) if self._task.plain.lengths else [None] * len(nodes)
        now = time.monotonic()
        return [
            SummedReply(node, "", said, self._digests(row), length, now)
            for node, row, said, length in zip(nodes, rows, metrics, lengths, strict=True)
        ]

    def _lengths(self, weights: Mapping[str, torch.Tensor]) -> list[float | None]:
        """Return the length of each device's step."""
        squares = torch.zeros(len(next(iter(weights.values()))))
        for name, value in weights.items():
            step = torch.sub(value, self._tensors[name]).reshape(len(value), 1, -1)
            squares += torch.bmm(step, step.mT).flatten()
        return list(squares.double().sqrt().tolist())
