"""Which device of this machine computes, and in which precision: the commands' `--device` and `--precision`.

The choice is the machine's and not the federation's, so it is no setting: it is in the environment, which the processes
that a command starts inherit. Workers are told it anew, as the process that they are forked from may be older. What an
accelerator computes differs from what a processor does in the last bits, and so do two kinds of accelerator;
docs/accelerators.md says what that means for a run.
"""

import os
import re
from collections.abc import Callable
from typing import Any

import click

from fedquit.errors import InputError

DEVICE, PRECISION = "FEDQUIT_DEVICE", "FEDQUIT_PRECISION"
PRECISIONS = ("fp32", "bf16", "fp16")
NAMES = re.compile(r"auto|cpu|cuda(:\d+)?|mps")


def chosen_device() -> str:
    """Return the device that was chosen: "cpu" unless another was.

    Raises:
        InputError: the environment names none.

    >>> chosen_device()
    'cpu'
    """
    name = os.environ.get(DEVICE) or "cpu"
    if not NAMES.fullmatch(name):
        raise InputError(f"device '{name}' is unknown; use auto, cpu, cuda, cuda:N or mps")
    return name


def chosen_precision() -> str:
    """Return the precision of training that was chosen: "fp32" unless another was.

    Raises:
        InputError: the environment names none.

    >>> chosen_precision()
    'fp32'
    """
    name = os.environ.get(PRECISION) or "fp32"
    if name not in PRECISIONS:
        raise InputError(f"precision '{name}' is unknown; use {', '.join(PRECISIONS)}")
    return name


def choice() -> tuple[str, str]:
    """Return device and precision as they were chosen, for `choose` in another process."""
    return chosen_device(), chosen_precision()


def choose(device: str | None, precision: str | None) -> None:
    """Have this process, and those that it starts, compute there; None: as the environment says.

    Raises:
        InputError: no such name.
    """
    if device:
        os.environ[DEVICE] = device
    if precision:
        os.environ[PRECISION] = precision
    chosen_device()
    chosen_precision()


def device_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the flags `--device` and `--precision`; they are chosen before it runs, and it does not see them.

    Raises:
        InputError: when the command is called, with a name that there is not.
    """
    for flag, said in (
        ("--precision", "of training on this machine: fp32, bf16 or fp16 [fp32]"),
        ("--device", "where this machine computes: auto, cpu, cuda, cuda:N or mps [cpu]"),
    ):
        command = click.option(flag, metavar="NAME", expose_value=False, callback=_choose, help=said)(command)
    return command


def _choose(context: click.Context, option: click.Parameter, value: str | None) -> None:
    del context
    choose(value if option.name == "device" else None, value if option.name == "precision" else None)
