"""What a tracker is told of a run, whichever it is, and which trackers there are."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from fedquit.errors import InputError, unknown
from fedquit.settings import Scalar

# name -> (the package that it needs, where its class is)
TRACKERS = {
    "tensorboard": ("tensorboard", "fedquit.trackers.to_tensorboard:ToTensorBoard"),
    "mlflow": ("mlflow", "fedquit.trackers.to_mlflow:ToMLflow"),
    "wandb": ("wandb", "fedquit.trackers.to_wandb:ToWandb"),
}
"""Every tracker by name: the package that it needs, and where its class is."""
_importing = threading.Lock()
"""Trackers are opened in threads and share packages; one that another thread has half imported fails to import."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """The run that is followed.

    Attributes:
        name: for people.
        folder: where a tracker may keep files of its own.
        group: what it belongs to, such as a comparison; "": it stands alone.
        id: by which the tracker knows it from an earlier session; "": it is new.
        parent: id of the run that it is part of, where the tracker nests runs; "": of none.
    """

    name: str
    folder: Path
    group: str = ""
    id: str = ""
    parent: str = ""


class Tracker(Protocol):
    """A tracker with a run open in it; its constructor takes a `TrackedRun`. Every call may raise whatever it likes.

    Attributes:
        id: by which the tracker knows the run.
    """

    id: str

    def settings(self, values: Mapping[str, Scalar]) -> None:
        """Take the settings of the run."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Take what was measured at a step; names are such as "train/loss"."""

    def results(self, values: Mapping[str, float]) -> None:
        """Take what came out in the end, once."""

    def facts(self, values: Mapping[str, str]) -> None:
        """Take what is said in words, such as the verdict."""

    def file(self, path: Path) -> None:
        """Take a file: a figure (.png), or a document."""

    def end(self, *, finished: bool) -> None:
        """Close the run: it is finished, or was stopped and may be resumed."""


def tracker_names(text: str) -> tuple[str, ...]:
    """Return the trackers that "tensorboard,mlflow" names, each once, all of them installed.

    Raises:
        InputError: one is unknown, or its package is missing: the line says what to install.

    >>> tracker_names("")
    ()
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        if find_spec(TRACKERS[name][0]) is None:
            raise InputError(f"--track {name} needs a package that is not installed: pip install 'fedquit[{name}]'")
    return names


def open_tracker(name: str, run: TrackedRun) -> Tracker:
    """Open a run in a tracker; that may take long, and raise whatever the tracker raises."""
    module, _, cls = TRACKERS[name][1].partition(":")
    with _importing:
        opened = getattr(import_module(module), cls)
    tracker: Tracker = opened(run)
    return tracker
