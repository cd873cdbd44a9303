"""Images at another size, for models that want one (a vision transformer takes 224 only)."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fedquit.client.data.datasets.dataset import Dataset
from fedquit.errors import InputError
from fedquit.unlearning.samples import Samples

CHUNK = 1024


def resize(dataset: Dataset, size: int) -> Dataset:
    """Return the dataset with inputs [N, C, size, size], bilinear with antialiasing; as it is where that fits already.

    Raises:
        InputError: If its inputs are rows of numbers and not images.
    """
    _, height, width = dataset.input_shape
    if (height, width) == (size, size):
        return dataset
    if height == 1 or width == 1:
        raise InputError(f"{dataset.name} has no images ({height}x{width} inputs); leave --image-size out")
    train, test = (Samples(resized(part.inputs, size), part.labels) for part in (dataset.train, dataset.test))
    return replace(dataset, train=train, test=test)


def resized(inputs: Tensor, size: int) -> Tensor:
    """Resize images [N, C, H, W] of either type to [N, C, size, size], a chunk at a time.

    >>> resized(torch.full((2, 1, 8, 8), 7, dtype=torch.uint8), 4)[0, 0, 0]
    tensor([7, 7, 7, 7], dtype=torch.uint8)
    """
    made = torch.empty((*inputs.shape[:2], size, size), dtype=inputs.dtype)
    for start in range(0, len(inputs), CHUNK):
        values = interpolate(inputs[start : start + CHUNK].float(), (size, size), mode="bilinear", antialias=True)
        made[start : start + CHUNK] = values if inputs.dtype.is_floating_point else values.round_().clamp_(0, 255)
    return made
