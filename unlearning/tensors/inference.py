"""Ask a model without changing it: inference mode, no gradients, and every module left in the mode it was in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedquit.errors import InputError
from fedquit.unlearning.samples import Samples


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put the model in training or inference mode; give each module its own mode back at the end.

    >>> model = nn.Dropout()
    >>> with mode(model, training=False):
    ...     print(model.training)
    False
    >>> model.training
    True
    """
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter; the CPU if it has none.

    >>> device_of(nn.Linear(1, 1))
    device(type='cpu')
    """
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def logits(model: nn.Module, samples: Samples, batch_size: int = 256) -> Tensor:
    """Return the model's output for each sample, in order, [N, C] on the model's device.

    In inference mode a sample's row depends on that sample alone, whatever the batch size, up to rounding.

    Raises:
        InputError: there are no samples.

    >>> samples = Samples(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1]))
    >>> logits(nn.Identity(), samples)
    tensor([[1.],
            [2.]])
    """
    if not len(samples):
        raise InputError("there are no samples to ask the model about; at least 1 is needed")
    device = device_of(model)
    starts = range(0, len(samples), batch_size)
    with mode(model, training=False), torch.no_grad():
        return torch.cat([model(samples.batch(slice(i, i + batch_size))[0].to(device)) for i in starts])
