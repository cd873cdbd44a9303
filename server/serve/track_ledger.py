"""A deployment as a tracker sees it: a process of its own follows the ledger and tells one tracker of each step.

Where it is, FOLDER/trackers/NAME.json says, so nothing is told twice and nothing is lost: a tracker that was away is
told all it missed. It is told no member, no sample, no ask and no address: measures, bytes, seconds, and how many
requests are in each state. Models stay where they are.

    python -m fedquit.server.serve.track_ledger FOLDER mlflow
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from fedquit.errors import FedquitError
from fedquit.files import explained, write_json
from fedquit.processes.supervisor import Part, pause
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger, Step
from fedquit.trackers import TrackedRun, Tracker, open_tracker
from fedquit.trackers.flat_numbers import flat_numbers

LOOK_EVERY = 10.0
"""Seconds between two looks at the ledger."""
TABLES = ("schedule", "forgetting", "asking")
"""Tables of server.toml that a tracker is told, besides [training]: not [server], with its addresses and a password."""


def tracker_part(folder: Path, name: str) -> Part:
    """Return the process that follows the ledger of the server in `folder` for a tracker."""
    return Part(f"tracker-{name}", [sys.executable, "-m", "fedquit.server.serve.track_ledger", str(folder), name])


class TrackLedger:
    """Tells a tracker what is new in the ledger of the server in `folder`."""

    def __init__(self, folder: Path, name: str, open_it: Callable[[str, TrackedRun], Tracker] = open_tracker) -> None:
        self._folder, self._name, self._open = folder, name, open_it
        self._file = folder / "trackers" / f"{name}.json"
        self._tracker: Tracker | None = None
        self._federation = Federation.read(folder)
        at = _read(self._file)
        self.id, self.step, self.trouble = str(at.get("id", "")), int(at.get("step", 0)), str(at.get("trouble", ""))
        self._requests: Mapping[str, float] = {}
        with explained(self._file):
            self._file.parent.mkdir(exist_ok=True)

    def look(self) -> int:
        """Tell the tracker of the steps that it does not know; return how many these were. Raises what it raises."""
        with closing(Ledger.open(self._federation.ledger_url(self._folder), write=False)) as ledger:
            steps, states = ledger.steps(after=self.step), ledger.requests_by_status()
        tracker = self._tracker or self._begin()
        for step in steps:
            tracker.numbers(numbers_of_step(step), step.number)
            self._remember(step=step.number)
        counted = {f"requests/{state}": float(number) for state, number in states.items()}
        if counted != self._requests:
            tracker.numbers(counted, self.step)
            self._requests = counted
        self._remember(trouble="")
        return len(steps)

    def failed(self, error: Exception) -> bool:
        """Write down what went wrong, for `TrackerTroubles`; say whether that is new. The run is opened again."""
        self._tracker = None
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        is_new = not self.trouble
        self._remember(trouble=text)
        return is_new

    def end(self) -> None:
        """Close the run, which goes on when the server does."""
        if self._tracker is not None:
            self._tracker.end(finished=False)

    def _begin(self) -> Tracker:
        run = TrackedRun(name=self._federation.name, folder=self._file.parent, id=self.id)
        self._tracker = self._open(self._name, run)
        self._requests = {}
        if self._tracker.id != self.id:
            self._remember(id=self._tracker.id)
        self._tracker.settings(settings_told(self._federation))
        return self._tracker

    def _remember(self, **changed: Any) -> None:
        if all(getattr(self, name) == value for name, value in changed.items()):
            return
        for name, value in changed.items():
            setattr(self, name, value)
        write_json(self._file, {"id": self.id, "step": self.step, "trouble": self.trouble})


class TrackerTroubles:
    """Says once, on the server's console, that a tracker cannot be reached, and once that it can again."""

    def __init__(self, folder: Path, listener: Callable[[Mapping[str, Any]], None]) -> None:
        self._folder, self._listener = folder / "trackers", listener
        self._known: dict[str, str] = {}

    def tend(self) -> None:
        """Look, and say what is new."""
        for file in sorted(self._folder.glob("*.json")):
            trouble, before = str(_read(file).get("trouble", "")), self._known.get(file.stem, "")
            if bool(trouble) != bool(before):
                self._listener({"event": "tracker", "tracker": file.stem, "reason": trouble})
            self._known[file.stem] = trouble


def settings_told(federation: Federation) -> dict[str, Any]:
    """Return what a tracker is told of server.toml."""
    tables = federation.model_dump(by_alias=True, mode="json")
    told = {f"{table}/{key}": value for table in TABLES for key, value in tables[table].items()}
    flat = {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in told.items()}
    return {**federation.settings().run_config(), **flat}


def numbers_of_step(step: Step) -> dict[str, float]:
    """Return what was measured in a step and what it cost, without whom it was about."""
    from fedquit.server.coordinator.participants.excluded_devices import FOUND  # loads torch: not in `serve`

    measures = {name: value for name, value in step.measures.items() if not name.startswith(FOUND)}
    told = {
        "round": step.round,
        "clients": len(step.contributions),
        "refused": step.refused,
        "bytes_down": step.bytes_down,
        "bytes_up": step.bytes_up,
        "seconds": step.seconds,
        "device_seconds": step.device_seconds,
    }
    return flat_numbers({step.phase: {**told, **measures}})


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main(folder: Path, name: str) -> None:
    """Follow the ledger until SIGTERM; whatever the tracker does, this goes on trying, with growing pauses."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    tracked, failures = TrackLedger(folder, name), 0
    try:
        while True:
            try:
                tracked.look()
                failures = 0
            except Exception as error:
                failures += 1
                if tracked.failed(error):
                    print(f"{name}: {error}; it will be told later", flush=True)  # noqa: T201 - this is its log
            time.sleep(max(LOOK_EVERY, pause(failures) if failures else 0.0))
    finally:
        tracked.end()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except FedquitError as error:
        sys.exit(f"{sys.argv[2]}: {error}")
