"""Where this process computes: models, and the samples that a device trains on, are placed on the chosen accelerator.

Whatever travels, is saved or is compared stays on the processor: a state meets a model on an accelerator only through
`load_state_dict`, and answers come back before they are measured.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import current_process
from typing import TypeVar

import torch
from torch import Tensor, nn

from fedquit.errors import InputError
from fedquit.processes.chosen_device import chosen_device, chosen_precision
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.inference import device_of

DTYPES: Mapping[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
M = TypeVar("M", bound=nn.Module)


def accelerator() -> torch.device:
    """Return where this process computes; of several GPUs one of a pool's workers takes the next.

    Raises:
        InputError: the environment names a device that is not here.

    >>> accelerator()
    device(type='cpu')
    """
    name = chosen_device()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind == "cpu":
        return torch.device("cpu")
    there = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if int(number or 0) >= there:
        raise InputError(f"device '{name}' is not here: PyTorch finds {there} of kind '{kind}'; use cpu, or auto")
    return torch.device(kind, int(number) if number else _worker() % there)


def precision_dtype() -> torch.dtype | None:
    """Return the dtype that training computes in where it may; None: float32 throughout.

    Raises:
        InputError: the environment names no precision.
    """
    return DTYPES[chosen_precision()]


def computed_on() -> dict[str, str]:
    """Return where, and in which precision, this process computes.

    Raises:
        InputError: that device or precision is not there.

    >>> computed_on()
    {'device': 'cpu', 'precision': 'fp32'}
    """
    return {"device": str(accelerator().type), "precision": chosen_precision()}


def placed(model: M) -> M:
    """Move a model, in place, to where this process computes, and return it."""
    return model.to(accelerator())


def placed_samples(samples: Samples) -> Samples:
    """Return samples that lie where this process computes, so that no batch has to be moved."""
    there = accelerator()
    return samples if there.type == "cpu" else Samples(samples.inputs.to(there), samples.labels.to(there))


def on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state as it travels and is saved: on the processor, without gradients.

    >>> on_cpu(nn.Linear(1, 1, bias=False).state_dict())["weight"].requires_grad
    False
    """
    return {name: tensor.detach().cpu() for name, tensor in state.items()}


@contextmanager
def reduced(model: nn.Module) -> Iterator[None]:
    """Compute forward passes in the chosen precision, on the model's device; losses and weights stay float32."""
    dtype = precision_dtype()
    if dtype is None:
        yield
        return
    with torch.autocast(device_of(model).type, dtype=dtype):
        yield


def scaler(model: nn.Module) -> torch.amp.GradScaler:
    """Return what scales losses so that gradients in float16 do not vanish; in other precisions it does nothing."""
    return torch.amp.GradScaler(device_of(model).type, enabled=precision_dtype() is torch.float16)


def _worker() -> int:
    """Return the number of this process among the workers of its pool; 0: it is none."""
    identity = current_process()._identity  # the only name that a worker has
    return int(identity[-1]) - 1 if identity else 0
