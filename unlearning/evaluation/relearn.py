"""Relearning: how soon is a forgotten skill back? A model that only hid it needs fewer steps than one without it.

Trained on D_f it is the relearning test; trained on D_r alone and still measured on D_f it shows whether the samples
resurface without being seen again, which matters because recovery *is* training on D_r. The number to compare with is
the one of a retrained model, never a large one as such.
"""

import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fedquit.errors import InputError
from fedquit.unlearning.samples import Samples, shuffled_batches
from fedquit.unlearning.setting_checks import check_count, check_positive, check_share
from fedquit.unlearning.tensors.batch_norm import statistics_for
from fedquit.unlearning.tensors.inference import device_of, logits, mode


def relearn(
    model: nn.Module,
    samples: Samples,
    *,
    forgotten: Samples | None = None,
    lr: float,
    batch_size: int,
    target_accuracy: float,
    max_steps: int,
    check_every: int = 1,
    seed: int,
) -> int | None:
    """Return after how many steps of SGD on `samples` the accuracy on `forgotten` is at least `target_accuracy`.

    The model is copied and left as it was; order and dropout are drawn from `seed`, so the number repeats.

    Args:
        model: the model to train a copy of.
        samples: what to train on: D_f itself, or D_r for resurfacing.
        forgotten: D_f, on which accuracy is measured; `samples` if None.
        lr: learning rate of plain SGD.
        batch_size: samples in a step.
        target_accuracy: the accuracy, 0..1, that counts as "back", such as the original model's.
        max_steps: give up after this number of steps.
        check_every: number of steps between measurements; the answer is a multiple of it, or `max_steps`.
        seed: decides the order of the samples.

    Returns:
        The number of steps, 0 if the accuracy is there to begin with; None if it is not reached.

    >>> line = Samples(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]))
    >>> net = nn.Linear(1, 2, bias=False)
    >>> _ = nn.init.zeros_(net.weight)
    >>> relearn(net, line, lr=0.1, batch_size=2, target_accuracy=1.0, max_steps=9, seed=0)
    1
    """
    check_positive("lr", lr)
    check_share("target_accuracy", target_accuracy)
    for field, count in (("batch_size", batch_size), ("max_steps", max_steps), ("check_every", check_every)):
        check_count(field, count)
    if not len(samples):
        raise InputError("there are no samples to relearn from; at least 1 is needed")
    student, asked = copy.deepcopy(model), samples if forgotten is None else forgotten
    if _accuracy(student, asked) >= target_accuracy:
        return 0
    device = device_of(student)
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr)
    order, step = torch.Generator().manual_seed(seed), 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        while step < max_steps:
            for index in shuffled_batches(len(samples), batch_size, order):
                inputs, labels = samples.batch(index)
                _step(student, inputs.to(device), labels.to(device), optimizer)
                step += 1
                if (step % check_every == 0 or step == max_steps) and _accuracy(student, asked) >= target_accuracy:
                    return step
                if step == max_steps:
                    break
    return None


def _step(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    with mode(model, training=True), statistics_for(model, len(labels)):
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(model(inputs), labels))
        optimizer.step()


def _accuracy(model: nn.Module, samples: Samples) -> float:
    right = logits(model, samples, 512).argmax(dim=1).cpu() == samples.labels.cpu()
    return right.double().mean().item()
