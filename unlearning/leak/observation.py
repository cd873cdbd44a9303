"""What somebody sees of a request: the model before it, and the next one.

The server sees the global model g and the asking device's reply f. Another device sees g and the model that it is sent
next. The difference of the two was computed from the samples to forget, so it contains information about them.
"""

import copy
import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.arithmetic import difference, norm, parameter_names
from fedquit.unlearning.tensors.convert import StateDict
from fedquit.unlearning.tensors.fitting import full_gradient


@dataclass(frozen=True, slots=True)
class Observation:
    """Two consecutive models, entries in the order of the layers.

    Attributes:
        before: the model before the request.
        after: the next model that is seen.
        usual: a step, parameter -> tensor, that the observer would have expected anyway, such as that of the last
            round; it is subtracted. None: nothing is subtracted.
    """

    before: StateDict
    after: StateDict
    usual: StateDict | None = None

    def step(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the unexpected part of the step: `after - before - usual` of each parameter, float64.

        >>> import torch
        >>> line = nn.Linear(1, 1, bias=False)
        >>> Observation({"weight": torch.tensor([[1.0]])}, {"weight": torch.tensor([[3.0]])}).step(line)
        {'weight': tensor([[2.]], dtype=torch.float64)}
        """
        found = difference(self.after, self.before, parameter_names(model))
        if self.usual is None:
            return found
        return {name: value - self.usual[name].double() for name, value in found.items()}

    def model(self, empty: nn.Module) -> nn.Module:
        """Return a copy of `empty` with the weights before the request."""
        filled = copy.deepcopy(empty)
        filled.load_state_dict(dict(self.before))
        return filled


def gradient(model: nn.Module, samples: Samples) -> dict[str, Tensor]:
    """Return the gradient of the mean cross-entropy on `samples`, in inference mode: the direction of unlearning them.

    FedQUIT's first gradient on a sample, for a teacher that gives the true class no probability, is this one times
    `-p_y / (1 - p_y)`: unlearning a sample with a virtual teacher starts as gradient ascent does.

    >>> import torch
    >>> sorted(gradient(nn.Linear(2, 3), Samples(torch.ones(1, 2), torch.tensor([0]))))
    ['bias', 'weight']
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    found, _ = full_gradient(model, samples, F.cross_entropy)
    return dict(zip(names, found, strict=True))


def cosine(a: StateDict, b: StateDict) -> float:
    """Return the cosine of the angle between two steps over the entries of both; 0 if one of them is zero.

    >>> import torch
    >>> cosine({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([2.0, 0.0])})
    1.0
    """
    shared = [name for name in a if name in b]
    lengths = norm({name: a[name] for name in shared}) * norm({name: b[name] for name in shared})
    product = math.fsum(float((a[name].double() * b[name].double()).sum()) for name in shared)
    return product / lengths if lengths else 0.0
