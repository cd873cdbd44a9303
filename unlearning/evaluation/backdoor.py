"""A planted trigger as a probe: if the client to forget was the one that planted it, does it still work?

Success before and after forgetting shows whether the trigger is gone, and nothing more: a trigger is learned from few
samples that look alike, and says little about ordinary ones. Compare with a retrained model's rate, never with 0:
some samples are called the target class without any trigger. After Gu et al., arXiv 1708.06733.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedquit.errors import InputError
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.inference import logits

Trigger = Callable[[Tensor], Tensor]


def stamp(inputs: Tensor, *, size: int = 3, value: float | None = None) -> Tensor:
    """Return a copy of `inputs` [N, C, H, W] with the lower right `size` x `size` pixels set to `value`.

    Args:
        inputs: uint8 or float images.
        size: side of the patch in pixels; at most H and W.
        value: what to set them to; 255 for uint8 and 1 for float inputs (white) if None.

    >>> stamp(torch.zeros(1, 1, 2, 3, dtype=torch.uint8), size=1)[0, 0].tolist()
    [[0, 0, 0], [0, 0, 255]]
    """
    if inputs.ndim != 4 or not 1 <= size <= min(inputs.shape[2:]):
        raise InputError(f"a patch of size {size} does not fit inputs {list(inputs.shape)}; they must be [N, C, H, W]")
    stamped = inputs.clone()
    stamped[:, :, -size:, -size:] = (1 if inputs.is_floating_point() else 255) if value is None else value
    return stamped


def plant(samples: Samples, trigger: Trigger, target_class: int) -> Samples:
    """Return `samples` with the trigger on each and all labelled `target_class`: what an attacker trains on.

    >>> plant(Samples(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1])), stamp, 7).labels
    tensor([7, 7])
    """
    return Samples(trigger(samples.inputs), torch.full_like(samples.labels, target_class))


def attack_success_rate(model: nn.Module, samples: Samples, trigger: Trigger = stamp, target_class: int = 0) -> float:
    """Return the share of samples of other classes that the model calls `target_class` once they bear the trigger.

    Args:
        model: logits [B, C].
        samples: clean samples, such as D_t; those of the target class are left out.
        trigger: inputs [N, ...] to inputs of the same shape, such as `stamp`; it must not change what it is given.
        target_class: what the trigger is to be called.

    >>> samples = Samples(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))
    >>> attack_success_rate(nn.Flatten(), samples, stamp, target_class=5)  # the first stamped pixel is class 5
    1.0
    """
    others = samples.subset((samples.labels != target_class).nonzero().squeeze(1))
    if not len(others):
        raise InputError(f"every sample is of the target class {target_class}; a trigger shows on others only")
    called = logits(model, Samples(trigger(others.inputs), others.labels)).argmax(dim=1).cpu()
    return (called == target_class).double().mean().item()
