"""Local training on a device: mini-batch SGD (McMahan et al. 2017, arXiv 1602.05629, Algorithm 1) on any loss."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.unlearning.samples import Samples, shuffled_batches
from fedquit.unlearning.tensors.accelerator import accelerator, reduced, scaler
from fedquit.unlearning.tensors.batch_norm import statistics_for
from fedquit.unlearning.tensors.fitting import seeded
from fedquit.unlearning.tensors.inference import device_of


@contextmanager
def deterministic(seed: int, threads: int = 1) -> Iterator[None]:
    """Compute on `threads` threads with the global generator seeded, and put both back afterwards.

    One thread for each client, and as many clients at once as there are cores, is faster than one client
    on all cores, and makes the result independent of the machine's number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with seeded(seed, accelerator()):
            yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some of a client's samples: their numbers among all of them [B], inputs [B, ...] and labels [B]."""

    index: Tensor
    inputs: Tensor
    labels: Tensor


Loss = Callable[[nn.Module, Batch], Tensor]
"""Returns the loss (a scalar, in nats) of a model on a batch."""


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of the model's logits, in nats.

    >>> cross_entropy(nn.Identity(), Batch(torch.tensor([0]), torch.zeros(1, 2), torch.tensor([1])))
    tensor(0.6931)
    """
    return F.cross_entropy(model(batch.inputs), batch.labels)


def fit(
    model: nn.Module,
    samples: Samples,
    *,
    loss: Loss = cross_entropy,
    lr: float,
    epochs: int = 1,
    batch_size: int = 32,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    seed: int,
) -> float:
    """Train `model` in place on `samples` and return the mean loss of the last epoch.

    A batch of one sample, as of a device that has no other, is normalised by the running statistics.

    >>> _ = torch.manual_seed(0)
    >>> line = Samples(torch.linspace(-1, 1, 64)[:, None], (torch.linspace(-1, 1, 64) > 0).long())
    >>> net = nn.Linear(1, 2)
    >>> fit(net, line, lr=0.5, epochs=20, seed=0) < fit(nn.Linear(1, 2), line, lr=0.5, seed=0)
    True
    """
    generator, device, scale = torch.Generator().manual_seed(seed), device_of(model), scaler(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
    model.train()
    mean = 0.0
    for _ in range(epochs):
        sums: list[Tensor] = []
        for index in shuffled_batches(len(samples), batch_size, generator):
            inputs, labels = samples.batch(index)
            batch = Batch(index, inputs.to(device), labels.to(device))
            optimizer.zero_grad(set_to_none=True)
            with statistics_for(model, len(index)), reduced(model):
                value = loss(model, batch)
            torch.autograd.backward(scale.scale(value))
            scale.step(optimizer)
            scale.update()
            sums.append(value.detach() * len(index))
        mean = _total(sums) / len(samples)
    return mean


def _total(values: list[Tensor]) -> float:
    """Return the sum in float64, one after the other; from an accelerator they come all at once."""
    total = 0.0
    for value in torch.stack(values).tolist():
        total += value
    return total


@torch.no_grad()
def evaluate(model: nn.Module, samples: Samples, batch_size: int = 500) -> tuple[float, float]:
    """Return the mean cross-entropy (nats) and the accuracy of `model` on `samples`.

    >>> evaluate(nn.Identity(), Samples(torch.tensor([[0.0, 9.0], [9.0, 0.0]]), torch.tensor([1, 1])))[1]
    0.5
    """
    model.eval()
    device = device_of(model)
    loss = correct = 0.0
    for start in range(0, len(samples), batch_size):
        inputs, labels = (part.to(device) for part in samples.batch(slice(start, start + batch_size)))
        logits = model(inputs)
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        correct += int((logits.argmax(dim=1) == labels).sum())
    return loss / len(samples), correct / len(samples)
