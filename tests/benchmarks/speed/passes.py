"""FedQUIT's pass over a client's samples, beside an epoch of training on them with the same optimizer; one thread."""

import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import nn, optim
from torch.nn import functional as F

from fedquit.client.data.build_data_and_model import dataset_of, initial_model
from fedquit.client.training.sgd import deterministic
from fedquit.unlearning.methods.fedquit import OPTIMIZERS, FedQUIT
from fedquit.unlearning.samples import Samples, shuffled_batches
from tests.benchmarks.speed.machine import load
from tests.benchmarks.speed.turns import ratio
from tests.benchmarks.speed.works import Work

SAMPLES = 1000
METHOD = FedQUIT()


def time_passes(work: Work, runs: int, count: int = SAMPLES) -> dict[str, Any]:
    """Return the times of FedQUIT's pass, of an epoch, and of asking the teacher, in turn, as a document."""
    settings, busy = work.settings(), [load()]
    samples = dataset_of(settings).train.subset(torch.arange(count))
    model = initial_model(settings, settings.seed)
    timed: dict[str, Callable[[nn.Module], object]] = {
        "pass": lambda new: METHOD.forget(new, samples, seed=0),
        "epoch": lambda new: epoch(new, samples),
        "teacher": lambda new: METHOD.targets(new, samples),
    }
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    with deterministic(0):
        for _ in range(runs + 1):  # the first is not counted: it meets a cold cache
            for name, carry_out in timed.items():
                new, started = deepcopy(model), time.perf_counter()
                carry_out(new)
                seconds[name].append(time.perf_counter() - started)
    counted = {name: each[1:] for name, each in seconds.items()}
    return {
        "title": f"FedQUIT over {count:,} samples, {settings.model}",
        "load": [*busy, load()],
        "seconds": counted,
        "medians": {name: statistics.median(each) for name, each in counted.items()},
        "to_epoch": {name: ratio(each, counted["epoch"]) for name, each in counted.items()},
    }


def epoch(model: nn.Module, samples: Samples) -> None:
    """Train a model on samples for one epoch, in plain PyTorch, with FedQUIT's optimizer and batches."""
    optimizer: optim.Optimizer = OPTIMIZERS[METHOD.optimizer](list(model.parameters()), METHOD.step_size())
    order = torch.Generator().manual_seed(0)
    model.train()
    for index in shuffled_batches(len(samples), METHOD.batch_size, order):
        inputs, labels = samples.batch(index)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(model(inputs), labels))
        optimizer.step()
