"""NoT: turn the sign of the first layer's kernel, and let recovery find another way.

Negation breaks the co-adaptation of the layers at once, and recovery without the client does not bring back what only
its data held. No data is needed, so it works when the device is gone. Source: NoT, arXiv 2503.05657.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedquit.errors import InputError
from fedquit.unlearning.arithmetic import StateDict
from fedquit.unlearning.exchanges import Exchange, Outlook
from fedquit.unlearning.methods import GRANULARITIES, Method, Traits, method
from fedquit.unlearning.session import Session


def first_kernel(state: StateDict) -> str:
    """Return the first entry, in the state dict's order, with two dimensions or more.

    Raises:
        InputError: there is none.

    >>> import torch
    >>> first_kernel({"bn.weight": torch.ones(2), "conv.weight": torch.ones(2, 1, 3, 3)})
    'conv.weight'
    """
    for name, value in state.items():
        if value.ndim >= 2 and value.is_floating_point():
            return name
    raise InputError("negate: the model has no parameter with two dimensions or more; use another method")


def negate(state: StateDict) -> dict[str, Tensor]:
    """Return the model with the first kernel times -1; its bias and all else stay.

    >>> import torch
    >>> negate({"weight": torch.tensor([[2.0]]), "bias": torch.tensor([3.0])})
    {'weight': tensor([[-2.]]), 'bias': tensor([3.])}
    """
    first = first_kernel(state)
    return {name: -value if name == first else value for name, value in state.items()}


@method
@dataclass(frozen=True, slots=True)
class Negate(Method):
    """Multiply the first layer's kernel by -1 (arXiv 2503.05657).

    >>> Negate.traits.needs_device
    False
    """

    name: ClassVar[str] = "negate"
    traits: ClassVar[Traits] = Traits(
        granularities=frozenset(GRANULARITIES),
        runs_at="server",
        server_keeps="nothing",
        needs_device=False,
        secure_aggregation=True,
        summary="the server turns the sign of the first layer's kernel",
        paper="arXiv 2503.05657",
        destroys=True,
    )

    def serve(self, session: Session) -> StateDict:
        """Return the current model with its first kernel negated."""
        return negate(session.current)

    def exchanges(self, outlook: Outlook) -> tuple[Exchange, ...]:  # noqa: ARG002 - the interface
        """Nobody is asked."""
        return ()
