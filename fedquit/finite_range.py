"""A number on the command line that is one: click's range lets NaN through, as nothing compares with it."""

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """A range of finite numbers, an option's type.

    >>> FiniteRange(min=0).convert("nan", None, None)
    Traceback (most recent call last):
    click.exceptions.BadParameter: nan is not a finite number
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number that a text says, if it is finite and in the range."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number", param, ctx)
        return number
