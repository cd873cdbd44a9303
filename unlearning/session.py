"""What a method can use while it serves one request: models, training history, and a way to run steps on clients.

A method sees nothing of the network. It has clients carry out an exercise, and folds their replies as they come in.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from fedquit.errors import NoReplyError
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.arithmetic import StateMean
from fedquit.unlearning.tensors.convert import StateDict


@dataclass(frozen=True, slots=True)
class ClientReply:
    """The reply of one client.

    Attributes:
        client: its number.
        state: its model; the guard has seen that names, shapes and dtypes are those it was sent, and all is finite.
        num_examples: the samples that the exercise was carried out on, at least 1.
        metrics: of the exercise, such as `loss` (nats).
    """

    client: int
    state: StateDict
    num_examples: int
    metrics: Mapping[str, float]


class History(Protocol):
    """What the server kept of training. Rounds count from 1; how many are kept, `Traits.history` decides."""

    def rounds(self) -> Sequence[int]:
        """Return the rounds that were kept, in order; empty if none."""
        ...

    def model(self, number: int) -> StateDict:
        """Return the global model at the start of a kept round."""
        ...

    def update(self, number: int, client: int) -> StateDict | None:
        """Return what the client sent in a kept round minus what it got; None if it took no part."""
        ...

    def participants(self, number: int) -> Collection[int]:
        """Return who took part in a round, kept or not, for this log is small; nobody in one that was not run."""
        ...


class Session(Protocol):
    """One request, as the server serves it. Whatever a method draws at random, it derives from `seed`."""

    @property
    def current(self) -> StateDict:
        """The global model at the request, its entries in the order of the model's layers."""
        ...

    @property
    def initial(self) -> StateDict:
        """The global model before the first round."""
        ...

    @property
    def forgotten(self) -> tuple[int, ...]:
        """The clients with something to forget, in order; at the granularities of samples and class they stay."""
        ...

    @property
    def remaining(self) -> tuple[int, ...]:
        """The clients that take part and have nothing to forget, in order."""
        ...

    @property
    def num_examples(self) -> Mapping[int, int]:
        """Samples to forget of each forgotten client, at the granularity asked; samples of each remaining client."""
        ...

    @property
    def seed(self) -> int:
        """The request's own number."""
        ...

    @property
    def history(self) -> History:
        """What was kept of training."""
        ...

    @property
    def proxy(self) -> Samples | None:
        """Samples that the server itself holds, for methods that distil there; None if it has none."""
        ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one of the model's inputs."""
        ...

    def fresh(self, seed: int) -> nn.Module:
        """Return a newly initialised model of the federation's kind; the same seed gives the same one."""
        ...

    def run(
        self,
        exercise: str,
        clients: Sequence[int],
        state: StateDict,
        *,
        step: str = "forget",
        extra: StateDict | None = None,
        **config: float,
    ) -> Iterator[ClientReply]:
        """Have clients carry out an exercise on a model, and yield the replies as they come, in any order.

        Nothing is sent before the replies are iterated. A client that is gone or whose reply the guard refuses is
        missing; a fold says whether that matters. The seed of a client's exercise derives from the run's, how many
        calls came before, and the client.

        Args:
            exercise: "train": an ordinary local round, on a remaining client's samples or a forgotten client's samples
                to forget; `epochs` and `lr` in `config` override its own. "forget": `Method.on_device`, on a
                forgotten client's samples to forget or on a remaining client's own.
            clients: by whom; none: nothing is sent.
            state: the model they start from.
            step: which of the method's device procedures "forget" runs.
            extra: more tensors for that procedure, such as a second model.
            config: numbers for the exercise.
        """
        ...


def weighted_mean(replies: Iterable[ClientReply], required: Collection[int] = ()) -> dict[str, Tensor]:
    """Return the mean of the replies' models by number of samples, folded as they come.

    The sums are exact, so the order of arrival changes no bit; see `arithmetic.StateMean`.

    Args:
        replies: as `Session.ask` yields them.
        required: clients that must be among them.

    Raises:
        NoReplyError: one that is required did not come.
        FedquitError: none came.

    >>> import torch
    >>> one, two = ({"w": torch.tensor([value])} for value in (1.0, 4.0))
    >>> weighted_mean([ClientReply(0, one, 2, {}), ClientReply(1, two, 1, {})])
    {'w': tensor([2.])}
    """
    mean, came = StateMean(), set()
    for reply in replies:
        mean.add(reply.state, reply.num_examples)
        came.add(reply.client)
    check_replied(came, required)
    return mean.result()


def check_replied(came: Collection[int], required: Collection[int]) -> None:
    """Raise if a required client is missing among the replies.

    >>> check_replied({0, 1}, [0])
    """
    missing = sorted(set(required) - set(came))
    if missing:
        raise NoReplyError(f"no usable answer came from client(s) {', '.join(map(str, missing))}")
