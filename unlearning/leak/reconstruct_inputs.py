"""Reconstruct forgotten inputs: find inputs whose gradient points in the direction of the observed step.

In form the attack of Geiping et al., arXiv 2003.14053: minimise `1 - cos` between the observed step and the gradient of
made-up inputs, plus their total variation, by Adam from several starts. There the step goes down a loss; here it goes
up, as it is the difference of a model that forgot and the one before. Which of the starts counts is decided by how well
its gradient matches, never by the truth. Where the first layer is a matrix, one input needs no search: its rows move by
multiples of it (Phong et al. 2017, IEEE TIFS 13(5)), and that is the first start.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.unlearning.tensors.inference import mode

TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Attack:
    """The settings of a reconstruction.

    Attributes:
        starts: number of random starts.
        steps: of Adam, per start.
        lr: of Adam, in units of a pixel in [-1, 1].
        variation: weight of the total variation.
    """

    starts: int = 3
    steps: int = 200
    lr: float = 0.1
    variation: float = 1e-3


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """Images [N, C, H, W] in [-1, 1], and the cosine distance of their gradient to the step, 0 (same) to 2."""

    inputs: Tensor
    mismatch: float


def reconstruct(
    model: nn.Module,
    step: Mapping[str, Tensor],
    labels: Tensor,
    input_shape: tuple[int, ...],
    attack: Attack | None = None,
    *,
    seed: int,
) -> Reconstruction:
    """Return inputs that explain a step best.

    Args:
        model: the one before the request; not modified.
        step: change of each parameter.
        labels: the classes of the inputs [N], as the attacker knows or guesses them.
        input_shape: of one input.
        attack: its settings.
        seed: of the random starts.

    >>> model, x = nn.Linear(4, 2), torch.tensor([[1.0, -1.0, 0.5, 0.0]])
    >>> loss = F.cross_entropy(model(x), torch.tensor([0]))
    >>> step = dict(zip(["weight", "bias"], torch.autograd.grad(loss, [model.weight, model.bias])))
    >>> found = reconstruct(model, step, torch.tensor([0]), (4,), Attack(steps=0, starts=1), seed=0)
    >>> torch.allclose(found.inputs, x, atol=1e-5)
    True
    """
    attack = attack or Attack()
    draw = torch.Generator().manual_seed(seed)
    shape = (len(labels), *input_shape)
    starts = [torch.randn(shape, generator=draw) * 0.5 for _ in range(attack.starts)]
    guess = first_layer_guess(model, step, input_shape) if len(labels) == 1 else None
    if guess is not None:
        starts[0] = guess
    with mode(model, training=False):
        found = [_search(model, step, labels, start, attack) for start in starts]
    return min(found, key=lambda each: each.mismatch)


def first_layer_guess(model: nn.Module, step: Mapping[str, Tensor], input_shape: tuple[int, ...]) -> Tensor | None:
    """Return the one input that the rows of a first layer moved by, brightest pixel at 1; None: it is no matrix.

    Each row of the weights' step is the input times what the row's bias moved by. Of a step that is only a sign, as
    Adam's first, what is left is the sign of each pixel.
    """
    name, weight = next((name, value) for name, value in model.named_parameters())
    moved, bias = step.get(name), step.get(name.removesuffix("weight") + "bias")
    size = torch.Size(input_shape).numel()
    if moved is None or bias is None or weight.ndim != 2 or weight.shape[1] != size:
        return None
    picture = (moved.double() * bias.double().sign()[:, None]).sum(dim=0)
    return (picture / picture.abs().max().clamp(min=TINY)).float().reshape(1, *input_shape)


def _search(
    model: nn.Module, step: Mapping[str, Tensor], labels: Tensor, start: Tensor, attack: Attack
) -> Reconstruction:
    """Return where Adam gets from one start."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad and name in step]
    own = dict(model.named_parameters())
    weights, target = [own[name] for name in names], [step[name].float() for name in names]
    length = torch.sqrt(sum((each.square().sum() for each in target), torch.zeros(()))).clamp(min=TINY)

    def mismatch(inputs: Tensor) -> Tensor:
        loss = F.cross_entropy(model(inputs), labels)
        found = torch.autograd.grad(loss, weights, create_graph=inputs.requires_grad, materialize_grads=True)
        product = sum(((a * b).sum() for a, b in zip(found, target, strict=True)), torch.zeros(()))
        mine = torch.sqrt(sum((each.square().sum() for each in found), torch.zeros(())) + TINY)
        return 1 - product / (mine * length)

    inputs = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([inputs], lr=attack.lr)
    for _ in range(attack.steps):
        cost = mismatch(inputs) + attack.variation * total_variation(inputs)
        (inputs.grad,) = torch.autograd.grad(cost, [inputs])
        optimizer.step()
        with torch.no_grad():
            inputs.clamp_(-1, 1)
    final = inputs.detach()
    return Reconstruction(final, mismatch(final).item())


def total_variation(images: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels; 0 for what is no picture [N, C, H, W].

    >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
    tensor(1.)
    """
    if images.ndim != 4 or min(images.shape[-2:]) < 2:
        return torch.zeros(())
    return images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()
