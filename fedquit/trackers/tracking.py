"""Follows a run in several trackers at once, and never stands in its way.

Each tracker has a thread of its own, so one that is slow or hangs holds up no round. One that fails is told of once, in
one line, and left out from then on.
"""

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fedquit.errors import FedquitError
from fedquit.files import write_json
from fedquit.settings import Scalar
from fedquit.trackers.tracker import TrackedRun, Tracker, open_tracker

FILE = "trackers.json"
PATIENCE = 60.0
"""Seconds without progress after which the end of a run no longer waits for a tracker."""
Say = Callable[[str, str], None]
"""Told the name of a tracker that fails, and why."""
Call = Callable[[Tracker], None]


class Tracking:
    """A run that is followed in trackers. RUN/trackers.json has the ids by which they know it.

    Args:
        names: of the trackers, as `tracker_names` returned them.
        run: what is followed; its folder is there.
        say: told once of each tracker that fails.
        parents: tracker -> id of the run that this one is part of.
        patience: seconds without progress that `end` waits.
    """

    def __init__(
        self,
        names: Sequence[str],
        run: TrackedRun,
        say: Say,
        *,
        parents: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._file, self._lock, self._patience = run.folder / FILE, threading.Lock(), patience
        self.ids = tracked_ids(run.folder)
        self.new = frozenset(names) - self.ids.keys()
        parents = parents or {}
        self._workers = [
            _Worker(name, replace(run, id=self.ids.get(name, ""), parent=parents.get(name, "")), say, self._remember)
            for name in names
        ]

    def settings(self, values: Mapping[str, Scalar]) -> None:
        """Tell every tracker of the settings."""
        self._tell(lambda tracker: tracker.settings(values))

    def numbers(self, values: Mapping[str, float], step: int, *, to: frozenset[str] | None = None) -> None:
        """Tell every tracker, or those in `to`, what was measured at a step."""
        self._tell(lambda tracker: tracker.numbers(values, step), to)

    def results(self, values: Mapping[str, float]) -> None:
        """Tell every tracker what came out."""
        self._tell(lambda tracker: tracker.results(values))

    def facts(self, values: Mapping[str, str]) -> None:
        """Tell every tracker what is said in words."""
        self._tell(lambda tracker: tracker.facts(values))

    def file(self, path: Path) -> None:
        """Give every tracker a file, if it is there."""
        if path.is_file():
            self._tell(lambda tracker: tracker.file(path))

    def end(self, *, finished: bool) -> None:
        """Close the run in every tracker, and wait for those that get on."""
        self._tell(lambda tracker: tracker.end(finished=finished))
        for worker in self._workers:
            worker.finish(self._patience)

    def _tell(self, call: Call, to: frozenset[str] | None = None) -> None:
        for worker in self._workers:
            if to is None or worker.name in to:
                worker.tell(call)

    def _remember(self, name: str, id: str) -> None:  # noqa: A002
        with self._lock:
            if self.ids.get(name) != id:
                self.ids[name] = id
                write_json(self._file, self.ids)


def tracked_ids(folder: Path) -> dict[str, str]:
    """Return the ids by which trackers know the run in a folder; none where nothing can be read.

    >>> tracked_ids(Path("nowhere"))
    {}
    """
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(known) for name, known in found.items()} if isinstance(found, dict) else {}


class _Worker(threading.Thread):
    """Carries out the calls to one tracker, one after the other."""

    def __init__(self, tracker: str, run: TrackedRun, say: Say, remember: Callable[[str, str], None]) -> None:
        super().__init__(name=tracker, daemon=True)
        self._run, self._say, self._remember = run, say, remember
        self._calls = queue.SimpleQueue[Call | None]()
        self._done, self._off = 0, False
        self.start()

    def tell(self, call: Call) -> None:
        """Have a call carried out, unless the tracker has failed."""
        if not self._off:
            self._calls.put(call)

    def finish(self, patience: float) -> None:
        """Wait until all calls were carried out, or nothing moved for `patience` seconds."""
        self._calls.put(None)
        seen, since = self._done, time.monotonic()
        while self.is_alive() and time.monotonic() - since < patience:
            self.join(0.05)
            if self._done != seen:
                seen, since = self._done, time.monotonic()
        if self.is_alive():
            self._give_up(f"it did not answer for {patience:.0f} s")

    def run(self) -> None:
        """Open the tracker and carry out what comes."""
        try:
            tracker = open_tracker(self.name, self._run)
            self._remember(self.name, tracker.id)
            while (call := self._calls.get()) is not None:
                call(tracker)
                self._done += 1
        except (Exception, SystemExit) as error:
            self._give_up(_in_a_line(error))

    def _give_up(self, reason: str) -> None:
        if not self._off:
            self._off = True
            self._say(self.name, reason)


def failure_line(name: str, reason: str) -> str:
    """Return what people are told of a tracker that failed.

    >>> failure_line("mlflow", "connection refused")
    'mlflow: tracking stopped, the run continues: connection refused'
    """
    return f"{name}: tracking stopped, the run continues: {reason}"


def _in_a_line(error: BaseException) -> str:
    """Return what went wrong, in at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, FedquitError) or len(text) <= 300 else f"{text[:300]} …"
