"""Which classes were forgotten, and how many samples of each: read off the last layer, without any optimisation.

A sample's gradient in the bias of the last layer is what the model says of each class minus what it should say. Whoever
lowers the true class moves its bias down and the others' up, so the sign alone names the class of a single sample
(iDLG, arXiv 2001.02610, reads the same off an ordinary gradient, with the sign turned).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedquit.errors import InputError
from fedquit.unlearning.evaluation.likelihood import auc


def class_evidence(step: Mapping[str, Tensor], num_classes: int) -> Tensor:
    """Return, for each class, how far the last layer moved away from it, [C]: above 0 speaks for "was forgotten".

    That is the negative change of the layer's bias; of its weights, summed over their inputs, if it has no bias.

    Args:
        step: change of each parameter, in the order of the layers.
        num_classes: C.

    Raises:
        InputError: no layer has an output for each class.

    >>> class_evidence({"weight": torch.zeros(3, 2), "bias": torch.tensor([-0.5, 0.25, 0.25])}, 3)
    tensor([ 0.5000, -0.2500, -0.2500])
    """
    layers = [name for name, value in step.items() if value.ndim == 2 and len(value) == num_classes]
    if not layers:
        raise InputError(f"no layer of the model has {num_classes} outputs, one for each class")
    bias = step.get(layers[-1].removesuffix("weight") + "bias")
    return -(step[layers[-1]].sum(dim=1) if bias is None else bias)


@dataclass(frozen=True, slots=True)
class ReadOff:
    """How accurate a read-off was.

    Attributes:
        guessed: whether the class with the most evidence was among those forgotten.
        exact: whether the classes with evidence above 0 are exactly those forgotten.
        auc: the chance that a class that was forgotten has more evidence than one that was not; None: all were.
        correlation: Pearson's, of the evidence and the number of samples of each class; None: all numbers are equal.
    """

    guessed: bool
    exact: bool
    auc: float | None
    correlation: float | None


def read_off(evidence: Tensor, counts: Tensor) -> ReadOff:
    """Compare the evidence of each class [C] with the number of its samples that were forgotten [C].

    >>> read_off(torch.tensor([0.5, -0.25, -0.25]), torch.tensor([4, 0, 0]))
    ReadOff(guessed=True, exact=True, auc=1.0, correlation=1.0)
    """
    present = counts > 0
    both = bool(present.any()) and not bool(present.all())
    pair = torch.stack([evidence.double(), counts.double()])
    varies = bool((pair.std(dim=1) > 0).all())
    return ReadOff(
        guessed=bool(present[evidence.argmax()]),
        exact=bool(torch.equal(evidence > 0, present)),
        auc=auc(evidence[present], evidence[~present]) if both else None,
        correlation=float(torch.corrcoef(pair)[0, 1]) if varies else None,
    )
