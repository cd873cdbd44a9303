"""Finite numbers as options: click's own range lets NaN through, as every comparison with NaN is false."""

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """Type of an option: a finite number in a range.

    >>> FiniteRange(min=0).convert("nan", None, None)
    Traceback (most recent call last):
    click.exceptions.BadParameter: nan is not a finite number
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number that a text holds, if it is finite and in the range."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number", param, ctx)
        return number
