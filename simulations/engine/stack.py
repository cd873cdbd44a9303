"""How many clients the in-process engine trains at once, and why it trains them one by one where it does."""

import re
from copy import deepcopy

import torch

from fedquit.client.data.build_data_and_model import empty_model, form_of
from fedquit.client.messages.trained_ahead import why_one_by_one
from fedquit.client.training.sgd import deterministic, fit
from fedquit.client.training.stacked_sgd import fit_stacked
from fedquit.errors import InputError
from fedquit.settings import Settings
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.convert import StateDict

AUTO = 25
"""Clients at once: more save little, and leave fewer stacks to share among the workers."""
NEAR = 1e-4
"""How far weights after two stacked steps may be from those of the same steps alone."""
NUMBER = re.compile("0*[1-9][0-9]{0,8}")  # Python refuses to read a number of thousands of digits
LARGEST = 2 * 2**20
"""Bytes of a model above which a step takes so long that stacking saves nothing."""


def check_stack(stack: str) -> None:
    """Refuse what is not auto, off or a number from 1.

    Raises:
        InputError: it is not.

    >>> check_stack("16")
    """
    if stack not in ("auto", "off") and not NUMBER.fullmatch(stack):
        raise InputError(f"--stack {stack}: give auto, off, or the number of clients to train at once")


def stack_size(stack: str, settings: Settings) -> tuple[int, str]:
    """Return how many clients are trained at once, and if only one, why; "": one was asked for, or several are.

    Args:
        stack: auto, off or a number.
        settings: of the run.

    >>> stack_size("auto", Settings(model="mlp")), stack_size("off", Settings(model="mlp"))
    ((25, ''), (1, ''))
    """
    check_stack(stack)
    if stack in ("off", "1"):
        return 1, ""
    reason = why_one_by_one(settings) or _fails(settings)
    if reason:
        return 1, reason
    if stack != "auto":
        return int(stack), ""
    size = sum(value.numel() * value.element_size() for value in empty_model(settings.key()).parameters())
    if size > LARGEST:
        return 1, f"model '{settings.model}' is so large that stacking it saves nothing"
    return AUTO, ""


def _fails(settings: Settings) -> str:
    """Train two copies of the model for two steps, stacked and one by one, and return why it cannot be done stacked.

    The devices have 2 and 3 samples, so that one is padded: a model whose samples act on each other, such as one that
    subtracts their mean, then gives another result. From the second step on the devices have other weights.
    """
    model, draw = empty_model(settings.key()), torch.Generator().manual_seed(0)
    samples = [
        Samples(torch.rand(n, *form_of(settings).input_shape, generator=draw), torch.arange(n) % 2) for n in (2, 3)
    ]
    try:
        with deterministic(0):
            stacked = fit_stacked(deepcopy(model), samples, [0, 1], lr=settings.lr, epochs=2)
            alone = [deepcopy(model) for _ in samples]
            for seed, (one, own) in enumerate(zip(alone, samples, strict=True)):
                fit(one, own, lr=settings.lr, seed=seed, epochs=2)
    except (Exception, SystemExit) as error:  # a user's model may raise anything
        return f"model '{settings.model}' cannot be stacked: {_line_of(error)}"
    if not all(_near(state, one.state_dict()) for (state, _), one in zip(stacked, alone, strict=True)):
        return (
            f"model '{settings.model}' trains differently stacked: its samples act on each other, or it changes itself"
        )
    return ""


def _line_of(error: BaseException) -> str:
    """Return the message of an error, as one line."""
    said = str(error).strip().splitlines()
    if isinstance(error, RuntimeError) and said:
        return said[0][:160]  # PyTorch's, of several lines
    return f"{type(error).__name__}: {' '.join(said)[:160]}"


def _near(state: StateDict, other: StateDict) -> bool:
    return state.keys() == other.keys() and all(
        torch.allclose(state[name], value, atol=NEAR) for name, value in other.items()
    )
