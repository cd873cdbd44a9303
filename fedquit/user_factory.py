"""What a user wrote, by name: `package.module:factory` for a dataset or a model of their own."""

import importlib
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from fedquit.errors import InputError

SPEC = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_factory(spec: str) -> bool:
    """Say whether `spec` has the form `package.module:factory`.

    >>> is_factory("my.data:load"), is_factory("./my/data:load")
    (True, False)
    """
    return SPEC.fullmatch(spec) is not None


def import_factory(spec: str) -> Callable[..., Any]:
    """Import the callable that `package.module:factory` names.

    The current folder is searched last, so a script beside the run is found and cannot hide an installed package.

    Raises:
        InputError: If the module cannot be imported, or has no such callable.

    >>> import_factory("math:sqrt")(9.0)
    3.0
    """
    module_name, _, attribute = spec.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds strings
        sys.path.append(os.getcwd())  # noqa: PTH109
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(f"cannot import '{module_name}' of '{spec}' ({type(error).__name__}: {error})") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        what = "no" if found is None else "no callable"
        raise InputError(f"'{spec}': module '{module_name}' has {what} '{attribute}'")
    return found  # type: ignore[no-any-return]
