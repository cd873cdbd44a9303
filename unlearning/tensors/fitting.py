"""The training loop that methods run on a device: any loss, seeded, with a hook before and after each step."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.errors import FedquitError, InputError
from fedquit.unlearning.samples import Samples, shuffled_batches
from fedquit.unlearning.tensors.batch_norm import unlearning_mode
from fedquit.unlearning.tensors.inference import device_of, mode

LossOfOutputs = Callable[[Tensor, Tensor], Tensor]
BATCH = 256


def trainable(model: nn.Module, samples: Samples) -> list[nn.Parameter]:
    """Return the parameters that may move.

    Raises:
        InputError: there are none, or there are no samples.

    >>> len(trainable(nn.Linear(1, 2), Samples(torch.ones(1, 1), torch.tensor([0]))))
    2
    """
    if not len(samples):
        raise InputError("there are no samples to forget; at least 1 is needed")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError("the model has no parameter with requires_grad: nothing can be unlearned")
    return parameters


def descend(
    model: nn.Module,
    samples: Samples,
    *,
    loss: LossOfOutputs = F.cross_entropy,
    lr: float,
    epochs: int,
    batch_size: int,
    seed: int,
    momentum: float = 0.0,
    parameters: Sequence[nn.Parameter] | None = None,
    training: bool = True,
    before_step: Callable[[], None] = lambda: None,
    after_step: Callable[[float], bool] = lambda _loss: False,
) -> list[float]:
    """Minimise `loss` by SGD in place; return the mean loss of each epoch that was begun.

    Args:
        model: logits [B, C].
        samples: what to train on.
        loss: from logits [B, C] and labels [B] to a mean.
        lr: step size.
        epochs: passes at most.
        batch_size: samples a step.
        seed: of shuffle and dropout; the caller's random numbers are left as they were.
        momentum: of SGD.
        parameters: which may move; all with `requires_grad` if None.
        training: whether dropout drops; batch normalisation keeps the statistics that the model came with.
        before_step: called with the gradients computed, such as a clip.
        after_step: called with the batch's loss; True ends training.

    Raises:
        FedquitError: a loss or a parameter is no longer finite.

    >>> line = Samples(torch.linspace(-1, 1, 64)[:, None], (torch.linspace(-1, 1, 64) > 0).long())
    >>> losses = descend(nn.Linear(1, 2), line, lr=0.5, epochs=20, batch_size=8, seed=0)
    >>> losses[-1] < losses[0]
    True
    """
    moving = trainable(model, samples) if parameters is None else list(parameters)
    optimizer = torch.optim.SGD(moving, lr=lr, momentum=momentum)
    order, device, means = torch.Generator().manual_seed(seed), device_of(model), []
    with seeded(seed, device), unlearning_mode(model) if training else mode(model, training=False):
        for epoch in range(epochs):
            total, seen, stop = 0.0, 0, False
            for index in shuffled_batches(len(samples), batch_size, order):
                inputs, labels = samples.batch(index)
                value = loss(model(inputs.to(device)), labels.to(device))
                if not value.isfinite():
                    raise FedquitError(f"the loss is {value.item()} in epoch {epoch + 1}: try an lr below {lr}")
                optimizer.zero_grad()
                torch.autograd.backward(value, inputs=moving)
                before_step()
                optimizer.step()
                total, seen = total + value.item() * len(index), seen + len(index)
                stop = after_step(value.item())
                if stop:
                    break
            means.append(total / seen)
            if stop:
                break
    optimizer.zero_grad()
    if not all(bool(parameter.isfinite().all()) for parameter in moving):
        raise FedquitError(f"the model is no longer finite: try an lr below {lr}")
    return means


def full_gradient(model: nn.Module, samples: Samples, loss: LossOfOutputs) -> tuple[list[Tensor], float]:
    """Return the gradient of the mean loss over all samples for each trainable parameter, and that loss.

    In inference mode, so that it is the gradient of the model as it stands and nothing of the model moves.

    >>> model = nn.Linear(1, 2)
    >>> gradients, _ = full_gradient(model, Samples(torch.ones(3, 1), torch.tensor([0, 1, 0])), F.cross_entropy)
    >>> [list(gradient.shape) for gradient in gradients]
    [[2, 1], [2]]
    """
    parameters, device, total = trainable(model, samples), device_of(model), 0.0
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    with mode(model, training=False):
        for start in range(0, len(samples), BATCH):
            inputs, labels = samples.batch(slice(start, start + BATCH))
            value = loss(model(inputs.to(device)), labels.to(device)) * (len(labels) / len(samples))
            found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
            for running, gradient in zip(sums, found, strict=True):
                running += gradient
            total += value.item()
    return sums, total


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from `seed`, and leave the caller's random numbers as they were.

    >>> with seeded(0, torch.device("cpu")):
    ...     first = torch.rand(1)
    >>> with seeded(0, torch.device("cpu")):
    ...     print(torch.equal(first, torch.rand(1)))
    True
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if device.type == "cpu":  # torch.manual_seed notes the seed, with a stack trace, for devices that nobody began
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        yield
