"""NoT: turn the sign of the first layer's weights, and let recovery find another way.

Negation breaks the co-adaptation of the layers at once, and recovery without the client does not bring back what only
its data held. No data is needed, so it works when the device is gone. Source: NoT, arXiv 2503.05657.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedquit.errors import InputError
from fedquit.unlearning.exchanges import Exchange, Outlook
from fedquit.unlearning.methods.base import GRANULARITIES, Method, Traits, method
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.session import Session
from fedquit.unlearning.tensors.convert import StateDict
from fedquit.unlearning.tensors.first_layer import first_weights, names_of
from fedquit.unlearning.tensors.fitting import seeded
from fedquit.unlearning.tensors.inference import logits


def negated(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return the model's state with its first layer's weights times -1; biases and all else stay.

    Weights that the model uses again elsewhere are the same there too, so they turn there as well.

    Args:
        model: its state is copied.
        inputs: [B, ...] with B >= 2; where the model tells these apart, it must answer otherwise once it is negated.

    Raises:
        InputError: no weight acts on the input, or turning its sign changes nothing of what the model says.

    >>> model = nn.Linear(1, 1)
    >>> _ = model.load_state_dict({"weight": torch.tensor([[2.0]]), "bias": torch.tensor([3.0])})
    >>> negated(model, torch.tensor([[1.0], [2.0]]))
    {'weight': tensor([[-2.]]), 'bias': tensor([3.])}
    """
    try:
        names = names_of(model, first_weights(model, inputs))
    except InputError as error:
        raise InputError(f"negate: {error}; use another method") from None
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    result = {name: -value if name in names else value for name, value in state.items()}
    shown = Samples(inputs, torch.zeros(len(inputs)))
    before = logits(model, shown)
    model.load_state_dict(result)
    after = logits(model, shown)
    model.load_state_dict(state)
    if not torch.allclose(before, before[:1].expand_as(before)) and torch.allclose(before, after):
        raise InputError(
            f"negate: turning {', '.join(sorted(names))} changes no answer of the model; use another method"
        )
    return result


@method
@dataclass(frozen=True, slots=True)
class Negate(Method):
    """Multiply the first layer's weights by -1 (arXiv 2503.05657).

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
        summary="the server turns the sign of the first layer's weights",
        paper="arXiv 2503.05657",
        step="nothing",
        keeps_accuracy=False,
    )

    def serve(self, session: Session) -> StateDict:
        """Return the current model with its first layer negated.

        Raises:
            InputError: the model has no such layer, or its sign changes nothing.
        """
        model = session.fresh(session.seed)
        model.load_state_dict(dict(session.current))
        draw = torch.Generator().manual_seed(session.seed)
        inputs = torch.rand(2, *session.input_shape, generator=draw) * 2 - 1  # the range that images have
        with seeded(session.seed, inputs.device):
            result = negated(model, inputs)
        return {name: result[name] for name in session.current}

    def exchanges(self, outlook: Outlook) -> tuple[Exchange, ...]:  # noqa: ARG002 - the interface
        """Nobody is asked."""
        return ()
