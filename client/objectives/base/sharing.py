"""What the server shares with devices, for an objective: one model, unless it is what each of them said last.

A `Sharing` is the server's side of an objective: what goes down to a device, what a reply must be before anything of it
is read, and what becomes of it. Plain `Sharing` is one model to all and back. `LatestReplies` keeps every device's
last reply under the device's number, so that each can be sent what the others said, and one that leaves takes its part
with it at once.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedquit.errors import InputError
from fedquit.unlearning.tensors.convert import Shape, StateDict


class Form(NamedTuple):
    """What an array of a reply must be: its dtype by name and its shape."""

    dtype: str
    shape: Shape


def form_of(tensor: Tensor) -> Form:
    """Return what a tensor is.

    >>> form_of(torch.zeros(2, 3))
    Form(dtype='float32', shape=(2, 3))
    """
    return Form(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


class Sharing:
    """One model goes down, models come back, and their mean is the next one."""

    averages = True
    """Whether the server averages the replies; if not, it stores each under the number of its client."""

    def down(self, shared: StateDict, client: int, news: StateDict | None) -> StateDict:  # noqa: ARG002 - the interface
        """Return what goes down to a client.

        Args:
            shared: what is shared at the start of the round.
            client: to whom.
            news: what `adopt` returned for it, if this client took part in the round before; else None.
        """
        return shared

    def fits(self, claimed: Mapping[str, Shape], shared: StateDict) -> Mapping[str, Form]:  # noqa: ARG002
        """Return what a reply must be, given the shapes that its arrays claim: where there is no choice, no heed."""
        return {name: form_of(tensor) for name, tensor in shared.items()}

    def read(self, sent: StateDict, shared: StateDict, num_examples: int) -> StateDict:  # noqa: ARG002
        """Return what counts of a reply that fits.

        Raises:
            InputError: it contradicts itself.
        """
        return sent

    def adopt(
        self,
        shared: StateDict,  # noqa: ARG002
        new: StateDict,
        progress: float,  # noqa: ARG002
    ) -> tuple[StateDict, StateDict | None]:
        """Return what is shared from now on, and what goes down to those that have the old one; None: that itself.

        Args:
            shared: what was shared in the round.
            new: what the replies came to.
            progress: how far training is at the end of the round, from 0 to 1.
        """
        return new, None

    def without(self, shared: StateDict, clients: Collection[int]) -> StateDict:  # noqa: ARG002
        """Return what is shared without what these clients said; from a mean nothing can be taken."""
        return shared


class LatestReplies(Sharing):
    """Each device's last reply is stored under the device's number, as `3/logits`."""

    averages = False

    def __init__(self, forms: Mapping[str, Form]) -> None:
        self.forms = forms

    def download(self, replies: Mapping[int, StateDict], client: int) -> StateDict:
        """Return what is sent to a client, given the last replies; there is at least one."""
        raise NotImplementedError

    def down(self, shared: StateDict, client: int, news: StateDict | None) -> StateDict:  # noqa: ARG002
        """See `Sharing`; nothing where nobody has said anything."""
        replies = by_client(shared)
        return self.download(replies, client) if replies else {}

    def fits(self, claimed: Mapping[str, Shape], shared: StateDict) -> Mapping[str, Form]:  # noqa: ARG002
        """See `Sharing`."""
        return self.forms

    def read(self, sent: StateDict, shared: StateDict, num_examples: int) -> StateDict:  # noqa: ARG002
        """See `Sharing`: `counts` [C] are of the device's samples of each class."""
        counts = sent["counts"]
        if int(counts.min()) < 0 or int(counts.sum()) != num_examples:
            raise InputError(f"'counts' are {counts.tolist()}: not those of {num_examples} samples")
        return sent

    def without(self, shared: StateDict, clients: Collection[int]) -> StateDict:
        """See `Sharing`: those who leave take along what they said.

        >>> sorted(LatestReplies({}).without({"0/counts": torch.ones(1), "1/counts": torch.ones(1)}, {0}))
        ['1/counts']
        """
        return {name: tensor for name, tensor in shared.items() if int(name.partition("/")[0]) not in clients}


def by_client(shared: StateDict) -> dict[int, dict[str, Tensor]]:
    """Return what each client said, in the order of their numbers.

    >>> by_client({"10/a": torch.zeros(1), "2/a": torch.ones(1)})
    {2: {'a': tensor([1.])}, 10: {'a': tensor([0.])}}
    """
    found: dict[int, dict[str, Tensor]] = {}
    for key, tensor in shared.items():
        number, _, name = key.partition("/")
        found.setdefault(int(number), {})[name] = tensor
    return dict(sorted(found.items()))


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """Return how many samples there are of each class, int32 [C].

    >>> class_counts(torch.tensor([2, 0, 2]), 3)
    tensor([1, 0, 2], dtype=torch.int32)
    """
    return torch.bincount(labels, minlength=classes).to(torch.int32)


def class_means(rows: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean of the rows [N, d] of each class, [C, d] in their dtype; zeros for a class without samples.

    >>> class_means(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1, 0, 1]), 3)
    tensor([[2.0000],
            [2.5000],
            [0.0000]])
    """
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
    sums = torch.zeros(classes, rows.shape[1], dtype=torch.float64).index_add_(0, labels, rows.double())
    return (sums / counts[:, None]).to(rows.dtype)


def mean_by_class(rows: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Return the weighted mean over devices for each class, [C, d]; NaN for a class that nobody has.

    Args:
        rows: of each device, [C, d].
        weights: of each device's classes, [C], at least 0.

    >>> mean_by_class([torch.tensor([[1.0], [0.0]]), torch.tensor([[4.0], [0.0]])], [torch.tensor([2, 0])] * 2)
    tensor([[2.5000],
            [   nan]])
    """
    weight = torch.stack([each.double() for each in weights])
    sums = (torch.stack([each.double() for each in rows]) * weight[:, :, None]).sum(dim=0)
    return (sums / weight.sum(dim=0)[:, None]).to(rows[0].dtype)
