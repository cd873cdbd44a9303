"""Whether a call from Python shows its progress: at a terminal, unless the caller says otherwise."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from warnings import warn

from rich.console import Console

from fedquit.documents import Event, Listener
from fedquit.trackers.tracking import failure_line

Progress = bool | Listener | None
"""True: shown on standard error; False: not; None: shown if that is a terminal, so a notebook stays quiet; a function
gets the events."""
Show = Callable[..., AbstractContextManager[Listener]]


def shown(progress: Progress, show: Show) -> Show:
    """Return what shows progress: `show`, nothing, or the caller's own function."""
    if callable(progress):
        return lambda *_: nullcontext(progress)
    wanted = Console(stderr=True).is_terminal if progress is None else progress
    return show if wanted else lambda *_: nullcontext(_nothing)


def warn_of_tracker(name: str, reason: str) -> None:
    """Say as a Python warning that a tracker failed; the run continues without it."""
    warn(failure_line(name, reason), stacklevel=2)


def _nothing(event: Event) -> None:
    del event
