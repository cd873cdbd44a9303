"""How many clients the in-process engine trains at once, and why it trains them one by one where it does."""

from copy import deepcopy

import torch

from fedquit.client.data.build_data_and_model import empty_model, form_of
from fedquit.client.messages.trained_ahead import why_one_by_one
from fedquit.client.training.stacked_sgd import fit_stacked
from fedquit.errors import InputError
from fedquit.settings import Settings
from fedquit.unlearning.samples import Samples

AUTO = 16
"""Clients at once: more save little, and leave less to deal out among workers."""
LARGEST = 2 * 2**20
"""Bytes of a model above which a step takes so long that to stack it saves nothing."""


def check_stack(stack: str) -> None:
    """Refuse what is not auto, off or a number from 1.

    Raises:
        InputError: it is not.

    >>> check_stack("16")
    """
    if stack not in ("auto", "off") and not (stack.isdecimal() and int(stack) >= 1):
        raise InputError(f"--stack {stack}: give auto, off, or how many clients are trained at once")


def stack_size(stack: str, settings: Settings) -> tuple[int, str]:
    """Return how many clients are trained at once, and why it is one; "": because one was asked for, or it is not.

    Args:
        stack: auto, off or a number.
        settings: of the run.

    >>> stack_size("auto", Settings(model="mlp")), stack_size("off", Settings(model="mlp"))
    ((16, ''), (1, ''))
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
        return 1, f"model '{settings.model}' is so large that to stack it saves nothing"
    return AUTO, ""


def _fails(settings: Settings) -> str:
    """Train two copies of the model for a step, stacked, and return what it does that cannot be done so."""
    inputs = torch.zeros(2, *form_of(settings).input_shape)
    samples = Samples(inputs, torch.zeros(2, dtype=torch.int64))
    try:
        fit_stacked(deepcopy(empty_model(settings.key())), [samples, samples], [0, 0], lr=settings.lr)
    except RuntimeError as error:
        return f"model '{settings.model}' cannot be stacked: {str(error).splitlines()[0][:160]}"
    return ""
