"""What commands print: documents and events, plain data under names that the docs list, and counts in words."""

from collections.abc import Callable, Mapping
from typing import Any

Document = dict[str, Any]
"""A report, a results file or a table's rows, as it is written to disk and printed with `--json`."""
Event = Mapping[str, Any]
"""Something that happened in a run, such as a round that ended; `event` names its kind."""
Listener = Callable[[Event], None]
"""Called with each event as it happens."""


def counted(number: int, thing: str) -> str:
    """Return a number with its noun, which takes an "s" unless there is one.

    >>> counted(1, "sample"), counted(0, "sample"), counted(1200, "round")
    ('1 sample', '0 samples', '1,200 rounds')
    """
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
