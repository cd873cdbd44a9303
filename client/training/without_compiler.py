"""Training without PyTorch's compiler in memory.

The first step of any optimiser imports `torch._dynamo`, only to tell the compiler not to look in: 150 MB and two
seconds for each message that a device answers, with sympy and triton in their train. Where nothing is compiled the two
functions that it calls do nothing, so a module of just these takes its place; whoever wants more gets the real one.
"""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

NAME = "torch._dynamo"


class _Idle(ModuleType):
    """Stands where the compiler would be, until it is wanted."""

    @staticmethod
    def graph_break(msg: str = "") -> None:
        """Do nothing: nothing is compiled."""

    @staticmethod
    def disable(fn: Callable[..., Any] | None = None, recursive: bool = True, **options: object) -> Callable[..., Any]:
        """Return the function as it is: nothing is compiled."""
        del recursive, options
        return fn if fn is not None else lambda function: function

    def __getattr__(self, name: str) -> Any:
        return getattr(_real(), name)


def spare_the_compiler() -> None:
    """Keep the compiler out of this process until something uses it.

    >>> import subprocess
    >>> code = '''import sys, torch; from fedquit.client.training.without_compiler import spare_the_compiler
    ... spare_the_compiler()
    ... weight = torch.ones(1, requires_grad=True); weight.sum().backward()
    ... torch.optim.SGD([weight], lr=0.5).step(); print(weight.item(), "sympy" in sys.modules)'''
    >>> subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
    '0.5 False'
    """
    if NAME not in sys.modules:
        sys.modules[NAME] = _Idle(NAME)


def _real() -> ModuleType:
    """Import the compiler after all."""
    if isinstance(sys.modules.get(NAME), _Idle):
        del sys.modules[NAME]
    module = importlib.import_module(NAME)
    torch._dynamo = module
    return module
