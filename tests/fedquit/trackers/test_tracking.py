"""Trackers are told what is told to one, and none of them can stop or hold up a run."""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedquit.errors import InputError
from fedquit.trackers import TRACKERS, TrackedRun, Tracking, tracker_names, tracking
from fedquit.trackers.tracking import tracked_ids


class Written:
    """A tracker that writes down what it is told, and may fail or hang at a call."""

    def __init__(self, run: TrackedRun, at: Callable[[str], None]) -> None:
        self.id, self.run, self.calls, self._at = run.id or "new", run, list[tuple[str, Any]](), at

    def _call(self, kind: str, told: Any) -> None:
        self._at(kind)
        self.calls.append((kind, told))

    def settings(self, values: Mapping[str, Any]) -> None:
        self._call("settings", dict(values))

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self._call("numbers", (dict(values), step))

    def results(self, values: Mapping[str, float]) -> None:
        self._call("results", dict(values))

    def facts(self, values: Mapping[str, str]) -> None:
        self._call("facts", dict(values))

    def file(self, path: Path) -> None:
        self._call("file", path.name)

    def end(self, *, finished: bool) -> None:
        self._call("end", finished)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[str, Written]:
    """Replace the trackers; return those that were opened. "bad" fails, "stuck" hangs, at the second numbers."""
    found, hang = dict[str, Written](), threading.Event()

    def open_it(name: str, run: TrackedRun) -> Written:
        seen = list[str]()

        def at(kind: str) -> None:
            seen.append(kind)
            if seen.count("numbers") == 2 and name == "bad":
                raise ConnectionError("the tracker\nis away")
            if seen.count("numbers") == 2 and name == "stuck":
                hang.wait(30)

        if name == "closed":
            raise SystemExit("log in first")
        found[name] = Written(run, at)
        return found[name]

    monkeypatch.setattr(tracking, "open_tracker", open_it)
    return found


def follow(names: list[str], folder: Path, said: list[tuple[str, str]], **how: Any) -> Tracking:
    """Follow a run of three rounds."""
    followed = Tracking(names, TrackedRun("mine", folder), lambda *why: said.append(why), **how)
    followed.settings({"lr": 0.1})
    for number in (1, 2, 3):
        followed.numbers({"train/loss": 1.0 / number}, number)
    followed.file(folder / "not-there.png")
    followed.facts({"verdict": "consistent"})
    return followed


def test_every_tracker_is_told_everything_in_order(opened: dict[str, Written], tmp_path: Path) -> None:
    said = list[tuple[str, str]]()
    follow(["one", "two"], tmp_path, said).end(finished=True)
    kinds = ["settings", "numbers", "numbers", "numbers", "facts", "end"]
    assert [[kind for kind, _ in opened[name].calls] for name in ("one", "two")] == [kinds, kinds]
    assert opened["one"].calls[3] == ("numbers", ({"train/loss": 1 / 3}, 3))
    assert (said, tracked_ids(tmp_path)) == ([], {"one": "new", "two": "new"})


def test_a_tracker_that_fails_is_told_of_once_and_the_others_go_on(opened: dict[str, Written], tmp_path: Path) -> None:
    said = list[tuple[str, str]]()
    follow(["bad", "closed", "good"], tmp_path, said).end(finished=True)
    assert sorted(said) == [("bad", "the tracker is away"), ("closed", "log in first")]
    assert opened["good"].calls[-1] == ("end", True)


def test_a_hanging_tracker_delays_no_round_and_the_end_by_a_bounded_time(
    opened: dict[str, Written], tmp_path: Path
) -> None:
    said, begun = list[tuple[str, str]](), time.monotonic()
    followed = follow(["stuck", "good"], tmp_path, said, patience=0.3)
    assert time.monotonic() - begun < 5
    followed.end(finished=True)
    assert time.monotonic() - begun < 15
    assert [name for name, _ in said] == ["stuck"]
    assert "did not answer" in said[0][1]
    assert opened["good"].calls[-1] == ("end", True)


def test_a_run_that_is_resumed_is_the_same_run_in_the_tracker(opened: dict[str, Written], tmp_path: Path) -> None:
    follow(["one"], tmp_path, []).end(finished=False)
    again = Tracking(["one", "two"], TrackedRun("mine", tmp_path), lambda *_: None)
    assert again.new == {"two"}
    again.numbers({"train/loss": 9.0}, 1, to=again.new)
    again.end(finished=True)
    assert (opened["one"].run.id, opened["two"].run.id) == ("new", "")
    assert [kind for kind, _ in opened["one"].calls] == ["end"]
    assert [kind for kind, _ in opened["two"].calls] == ["numbers", "end"]


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00"])
def test_ids_that_cannot_be_read_are_as_if_there_were_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "trackers.json").write_text(content, encoding="utf-8")
    assert tracked_ids(tmp_path) == {}


def test_a_tracker_that_is_unknown_or_not_installed_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"unknown tracker 'mlflo' \(did you mean 'mlflow'\?\)"):
        tracker_names("mlflo")
    monkeypatch.setitem(TRACKERS, "mlflow", ("no_such_package", "nowhere:Nothing"))
    with pytest.raises(InputError, match=r"--track mlflow needs .* pip install 'fedquit\[mlflow\]'"):
        tracker_names("mlflow")
