"""How close an image is to the true one: peak signal-to-noise ratio and structural similarity."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

RANGE = 2.0
"""From the darkest to the brightest: models see pixels in [-1, 1]."""
SIGMA, WINDOW, K1, K2 = 1.5, 11, 0.01, 0.03


def psnr(image: Tensor, truth: Tensor) -> float:
    """Return `10 log10(range^2 / mean squared error)` in dB, at most 100.

    >>> round(psnr(torch.zeros(1, 2, 2), torch.ones(1, 2, 2) * 0.2), 3)
    20.0
    """
    error = float((image.double() - truth.double()).square().mean())
    return 10 * math.log10(RANGE**2 / max(error, RANGE**2 * 1e-10))


def ssim(image: Tensor, truth: Tensor) -> float:
    """Return the mean structural similarity of two pictures [C, H, W]: 1 for the same, about 0 for unrelated ones.

    A Gaussian window of 11 pixels (of a smaller picture, its side made odd), standard deviation 1.5, only where it lies
    within the picture; K1 = 0.01, K2 = 0.03. Wang et al., IEEE Transactions on Image Processing 13(4), 2004.

    >>> picture = torch.eye(8)[None]
    >>> round(ssim(picture, picture), 6), ssim(picture, 1 - picture) < 0
    (1.0, True)
    """
    x, y = (given.double()[:, None] for given in (image, truth))
    side = min(WINDOW, *image.shape[-2:])
    side -= 1 - side % 2
    bell = torch.exp(-((torch.arange(side).double() - side // 2) ** 2) / (2 * SIGMA**2))
    window = torch.outer(bell, bell)[None, None] / bell.sum() ** 2

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, window)

    mx, my = mean(x), mean(y)
    vx, vy, covariance = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    alike = (2 * mx * my + c1) * (2 * covariance + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(alike.mean())


def nearest(image: Tensor, candidates: Tensor) -> int:
    """Return which of the candidates [N, C, H, W] correlates best with the picture [C, H, W].

    Brightness and contrast do not count: a step that was normalised, as Adam's is, has lost them.

    >>> nearest(torch.tensor([[[0.1, 0.3]]]), torch.tensor([[[[1.0, 0.0]]], [[[0.0, 1.0]]]]))
    1
    """
    flat = torch.cat([image[None], candidates]).flatten(1).double()
    flat = flat - flat.mean(dim=1, keepdim=True)
    flat = flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return int((flat[1:] @ flat[0]).argmax())
