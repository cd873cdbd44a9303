"""Waits in tests last as long as something moves, and no longer."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.harness.waiting import files, until


class Clock(SimpleNamespace):
    """A clock that moves when somebody sleeps."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("tests.harness.waiting.time", made)
    return made


def test_a_wait_lasts_as_long_as_something_moves(clock: Clock) -> None:
    assert until(lambda: clock.now > 1000, moving=lambda: clock.now // 100, still=150, every=1)


def test_a_wait_ends_when_nothing_moves_or_at_the_latest(clock: Clock) -> None:
    with pytest.raises(AssertionError, match="no receipt, and nothing moved for 150 s"):
        until(lambda: False, "receipt", moving=lambda: min(clock.now, 50), still=150, every=1)
    with pytest.raises(AssertionError, match="no receipt within 2000 s"):
        until(lambda: False, "receipt", moving=lambda: clock.now, most=2000, every=1)


def test_a_growing_log_is_progress_and_polling_is_not(tmp_path: Path) -> None:
    (tmp_path / "superlink.log").write_text("ListRuns\n")
    (tmp_path / "north.log").write_text("")
    before = files(tmp_path)
    (tmp_path / "superlink.log").write_text("ListRuns\nListRuns\n")
    assert files(tmp_path) == before
    (tmp_path / "north.log").write_text("Receiving: train\n")
    assert files(tmp_path) != before
