"""A tracker follows a server's ledger: nothing twice, nothing lost, nobody named."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedquit.server.ledger import Ledger
from fedquit.server.serve.serve import line_of
from fedquit.server.serve.track_ledger import TrackerTroubles, TrackLedger, settings_told, tracker_part
from fedquit.trackers import TrackedRun
from tests.fedquit.trackers.read_back import tensorboard_scalars
from tests.harness.rehearsal import Rehearsal, rehearse
from tests.harness.waiting import STILL, until

TABLES: dict[str, dict[str, Any]] = {"schedule": {"rounds": 1}}


class Listed:
    """A tracker that lists numbers; it is away for as long as it is told."""

    def __init__(self, away: bool = False) -> None:
        self.away, self.id = away, ""
        self.told = list[tuple[dict[str, float], int]]()
        self.opened = list[str]()
        self.other = dict[str, Any]()

    def open(self, name: str, run: TrackedRun) -> "Listed":
        if self.away:
            raise ConnectionError("nobody answers")
        self.opened.append(run.id)
        self.id = run.id or "made"
        return self

    def settings(self, values: Mapping[str, Any]) -> None:
        self.other |= values

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        if self.away:
            raise ConnectionError("nobody answers")
        self.told.append((dict(values), step))

    def results(self, values: Mapping[str, float]) -> None: ...

    def facts(self, values: Mapping[str, str]) -> None: ...

    def file(self, path: Path) -> None: ...

    def end(self, *, finished: bool) -> None: ...


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    """A federation in which one of three devices was forgotten."""
    rehearsal = rehearse(tmp_path_factory.mktemp("rehearsal") / "made", TABLES, devices=3, samples=90)
    with rehearsal.grid() as grid:
        rehearsal.run(grid, rounds=1)
        rehearsal.ask(rehearsal.signed(0))
        rehearsal.run(grid, rounds=1)
    return rehearsal


def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def steps_of(rehearsal: Rehearsal) -> list[Any]:
    ledger = Ledger.open(rehearsal.federation.ledger_url(rehearsal.server), write=False)
    try:
        return ledger.steps()
    finally:
        ledger.close()


def test_every_step_of_a_server_is_read_back_from_tensorboard(rehearsed: Rehearsal) -> None:
    tracked = TrackLedger(rehearsed.server, "tensorboard")
    steps = steps_of(rehearsed)
    assert steps
    assert tracked.look() == len(steps)
    tracked.end()
    found = tensorboard_scalars(rehearsed.server / "trackers" / "tensorboard")
    for step in steps:
        assert found[f"{step.phase}/bytes_up"][step.number] == pytest.approx(step.bytes_up)
        assert found[f"{step.phase}/clients"][step.number] == len(step.contributions)


def test_the_process_of_a_server_follows_the_ledger_until_it_is_ended(rehearsed: Rehearsal) -> None:
    folder = rehearsed.server / "trackers"
    part = tracker_part(rehearsed.server, "tensorboard")
    (folder / "tensorboard.json").unlink(missing_ok=True)
    with subprocess.Popen(part.arguments(), stdout=subprocess.PIPE, text=True) as process:
        last = steps_of(rehearsed)[-1].number
        until(lambda: f'"step": {last}' in text_of(folder / "tensorboard.json"), "last step")
        process.terminate()
        assert process.wait(STILL) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""
    assert "train/bytes_up" in tensorboard_scalars(folder / "tensorboard")


def test_a_tracker_that_was_away_is_told_everything_once_and_in_order(rehearsed: Rehearsal) -> None:
    listed, steps = Listed(away=True), steps_of(rehearsed)
    tracked = TrackLedger(rehearsed.server, "listed", listed.open)
    for is_new in (True, False, False):
        with pytest.raises(ConnectionError) as why:
            tracked.look()
        assert tracked.failed(why.value) is is_new
    listed.away = False
    again = TrackLedger(rehearsed.server, "listed", listed.open)  # as after a restart of the server
    assert (again.look(), again.look()) == (len(steps), 0)
    assert [step for values, step in listed.told if "requests/done" not in values] == [s.number for s in steps]
    third = TrackLedger(rehearsed.server, "listed", listed.open)
    assert third.look() == 0
    assert listed.opened == ["", "made"]


def test_the_console_says_once_that_a_tracker_is_away_and_once_that_it_is_back(rehearsed: Rehearsal) -> None:
    said, listed = list[str](), Listed(away=True)
    troubles = TrackerTroubles(rehearsed.server, lambda event: said.append(line_of(event)))
    tracked = TrackLedger(rehearsed.server, "gone", listed.open)
    for _ in range(3):
        with pytest.raises(ConnectionError) as why:
            tracked.look()
        tracked.failed(why.value)
        troubles.tend()
    listed.away = False
    tracked.look()
    troubles.tend()
    troubles.tend()
    assert [line for line in said if "gone" in line] == [
        "tracker gone: ConnectionError: nobody answers; the server continues, and sends the missed records later",
        "tracker gone: it follows again",
    ]


def test_a_tracker_is_told_no_member_no_address_and_no_password(rehearsed: Rehearsal) -> None:
    listed = Listed()
    TrackLedger(rehearsed.server, "private", listed.open).look()
    names = {name for values, _ in listed.told for name in values} | set(settings_told(rehearsed.federation))
    text = " ".join([*names, *map(str, listed.other.values())])
    assert not [kit.name for kit in rehearsed.kits() if kit.name in text]
    assert "ledger" not in text
    assert "port" not in text.replace("support", "")
    assert not [name for name in names if name.partition("/")[2].startswith("found_member")]
