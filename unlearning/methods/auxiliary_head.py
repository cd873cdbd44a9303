"""FedAU: a classifier that has learned nonsense on the samples takes the place of the one that knows them.

The device re-initialises a copy of the classifier, trains it on random labels while the rest of the network stands
still, and mixes it with the classifier in use. Source: FedAU, arXiv 2405.15474.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedquit.errors import InputError, unknown
from fedquit.unlearning.exchanges import Exchange, Outlook
from fedquit.unlearning.methods.base import GRANULARITIES, Method, Traits, method
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.setting_checks import check_count, check_positive, check_share
from fedquit.unlearning.tensors.fitting import descend, seeded, trainable
from fedquit.unlearning.tensors.inference import device_of

STARTS = ("fresh", "classifier")


def classifier(model: nn.Module) -> nn.Linear:
    """Return the last linear layer in the order of `model.modules()`.

    Raises:
        InputError: there is none.

    >>> classifier(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 3)))
    Linear(in_features=2, out_features=3, bias=True)
    """
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not heads:
        raise InputError("auxiliary-head: the model has no linear layer to take as its classifier; use another method")
    return heads[-1]


def mixed(own: Tensor, auxiliary: Tensor, keep: float) -> Tensor:
    """Return `keep * own + (1 - keep) * auxiliary`.

    >>> mixed(torch.tensor([100.0]), torch.tensor([0.0]), 0.04)
    tensor([4.])
    """
    return keep * own + (1 - keep) * auxiliary


@method
@dataclass(frozen=True, slots=True)
class AuxiliaryHead(Method):
    """Mix the classifier with one trained on random labels (arXiv 2405.15474).

    The label of each sample is drawn once, uniformly over the classes, and is the same in every epoch. Features are
    those of inference mode. Only the last linear layer changes.
    For single samples and for a class this is our reading: the authors train it on what stays, too.

    Attributes:
        keep: share of w, the classifier in use, .04 here; the auxiliary classifier w_aux gets the other .96.
        lr: step size of the auxiliary classifier's SGD; .1.
        epochs: its passes over the samples; 10.
        batch_size: samples a step.
        start: of the auxiliary classifier, "fresh" or "classifier" (the one in use, as the authors' code has it: more
            of what it knows of the others' samples survives).

    >>> samples = Samples(torch.ones(4, 2), torch.tensor([0, 1, 2, 0]))
    >>> len(AuxiliaryHead().forget(nn.Linear(2, 3), samples, seed=0))
    10
    """

    name: ClassVar[str] = "auxiliary-head"
    traits: ClassVar[Traits] = Traits(
        granularities=frozenset(GRANULARITIES),
        runs_at="device",
        server_keeps="nothing",
        needs_device=True,
        secure_aggregation=True,
        summary="the device mixes the classifier with one trained on random labels",
        paper="arXiv 2405.15474",
    )

    keep: float = 0.04
    lr: float = 0.1
    epochs: int = 10
    batch_size: int = 32
    start: str = "fresh"

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise unknown("start", str(self.start), STARTS)
        check_share("keep", self.keep)
        check_positive("lr", self.lr)
        for field in ("epochs", "batch_size"):
            check_count(field, getattr(self, field))

    def exchanges(self, outlook: Outlook) -> tuple[Exchange, ...]:
        """One request to the forgotten clients; only the classifier is gone through backwards."""
        return (Exchange("forget", outlook.forgotten, passes=self.epochs / 3),)

    def forget(self, model: nn.Module, samples: Samples, *, seed: int) -> list[float]:
        """Replace the classifier in place; return the auxiliary classifier's mean loss of each epoch."""
        trainable(model, samples)
        head = classifier(model)
        own = [parameter.detach().clone() for parameter in head.parameters()]
        if self.start == "fresh":
            with seeded(derive_seed(seed, "auxiliary head"), device_of(model)):
                head.reset_parameters()
        losses = descend(
            model,
            Samples(samples.inputs, random_labels(len(samples), head.out_features, seed)),
            lr=self.lr,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=seed,
            parameters=list(head.parameters()),
            training=False,
        )
        with torch.no_grad():
            for parameter, before in zip(head.parameters(), own, strict=True):
                parameter.copy_(mixed(before, parameter, self.keep))
        return losses


def random_labels(size: int, classes: int, seed: int) -> Tensor:
    """Return `size` labels drawn uniformly from `range(classes)`.

    >>> sorted(random_labels(100, 3, seed=0).unique().tolist())
    [0, 1, 2]
    """
    draw = torch.Generator().manual_seed(derive_seed(seed, "random labels"))
    return torch.randint(classes, (size,), generator=draw)
