"""A run as trackers see it: its settings, each round's measures and bytes, how phases ended, the report and figures.

A run that is resumed, or that starts from another's training, is known in full: rounds that a tracker has not seen are
told from the run's state. Models are never given to a tracker: they contain what is to be forgotten.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedquit.server.run.run_folder import read_state
from fedquit.server.run.run_state import Round
from fedquit.trackers import TrackedRun, Tracking
from fedquit.trackers.flat_numbers import flat_numbers
from fedquit.trackers.tracking import Say

COSTS = ("bytes_down", "bytes_up", "seconds", "device_seconds", "compression_error_down", "compression_error_up")
FILES = ("report.json", "accuracy.png", "labels.png", "cost.png")


class TrackRun:
    """Takes the events of a run and tells trackers; use it as a context manager.

    Args:
        names: of the trackers.
        say: told of a tracker that fails.
        name: of the run; "": its folder's.
        group: what it is part of.
        parents: tracker -> id of what it is part of.
    """

    def __init__(
        self,
        names: Sequence[str],
        say: Say,
        *,
        name: str = "",
        group: str = "",
        parents: Mapping[str, str] | None = None,
    ) -> None:
        self._names, self._say, self._name, self._group, self._parents = names, say, name, group, parents
        self._tracking: Tracking | None = None

    def __enter__(self) -> "TrackRun":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._tracking is not None:
            self._tracking.end(finished=kind is None)

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Tell the trackers of an event, if it is for them."""
        kind = event["event"]
        if kind == "opened" and self._names:
            self.open(Path(event["folder"]), event["settings"])
        elif self._tracking is None:
            return
        elif kind == "round":
            self._tracking.numbers(numbers_of_event(event), int(event["round"]))
        elif kind == "phase-end":
            self._tracking.facts({f"{event['phase']}/ended": event["reason"]})
        elif kind == "finished":
            self.report(event["report"], Path(event["folder"]))

    def open(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open the run in the trackers, and tell those to which it is new of its rounds so far."""
        name = self._name or folder.resolve().name
        run = TrackedRun(name=name, folder=folder, group=self._group)
        self._tracking = Tracking(self._names, run, self._say, parents=self._parents)
        self._tracking.settings(settings)
        for finished in read_state(folder).rounds:
            self._tracking.numbers(numbers_of(finished), finished.number, to=self._tracking.new)

    def report(self, document: Mapping[str, Any], folder: Path) -> None:
        """Tell of the report: results, verdict, versions, and the files."""
        if self._tracking is None:
            return
        self._tracking.results(
            flat_numbers({key: document[key] for key in ("stages", "phases", "ratios_to_retraining", "samples")})
        )
        facts = {f"versions/{name}": str(version) for name, version in document["versions"].items()}
        if document["verdict"]:
            facts |= {"verdict": document["verdict"]["outcome"], "verdict/reason": document["verdict"]["reason"]}
        self._tracking.facts(facts)
        for name in FILES:
            self._tracking.file(folder / name)


def numbers_of_event(event: Mapping[str, Any]) -> dict[str, float]:
    """Return the measures and costs of a round's event.

    >>> numbers_of_event({"time": 9.5, "event": "round", "phase": "train", "round": 3, "loss": 0.5, "bytes_up": 7})
    {'train/loss': 0.5, 'train/bytes_up': 7.0}
    """
    told = {key: value for key, value in event.items() if key not in ("time", "event", "phase", "round")}
    return flat_numbers({event["phase"]: told})


def numbers_of(finished: Round) -> dict[str, float]:
    """Return the same of a round as the run's state has it."""
    costs = {name: getattr(finished, name) for name in COSTS}
    told = {"clients": len(finished.participants), "refused": finished.refused, "loss": finished.loss}
    return flat_numbers({finished.phase: {**told, **finished.measures, **costs}})
