"""A clock that is set makes no wait of a request longer or shorter."""

from pathlib import Path

import pytest

from fedquit.errors import FedquitError
from fedquit.server.coordinator import Coordinator
from tests.harness.rehearsal import HOUR, Rehearsal, rehearse

DAY = 24 * HOUR
TIMEOUT = 6 * HOUR


@pytest.fixture
def rehearsal(tmp_path: Path) -> Rehearsal:
    made = rehearse(tmp_path / "made", {"forgetting": {"device-timeout": TIMEOUT}})
    made.run(made.grid(), rounds=2)
    return made


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_clock_that_is_set_ends_no_recovery_early_and_none_late(rehearsal: Rehearsal, jump: float) -> None:
    rehearsal.ask(rehearsal.signed(0))
    grid = rehearsal.grid()
    with rehearsal.place(grid) as place:
        coordinator = Coordinator(place)
        while place.ledger.requests()[0].status != "recovering":
            coordinator.turn()
        grid.away = {1, 2, 3}
        coordinator.turn()  # there is nobody to recover with
        rehearsal.clock.ahead += jump
        coordinator.turn()
        assert place.ledger.requests()[0].status == "recovering"
        rehearsal.clock.pause(TIMEOUT - 60)
        coordinator.turn()
        assert place.ledger.requests()[0].status == "recovering"
        rehearsal.clock.pause(120)
        coordinator.turn()
        assert place.ledger.requests()[0].status == "unrecovered"


def test_a_clock_that_is_set_back_leaves_no_request_alone_for_long(rehearsal: Rehearsal) -> None:
    rehearsal.ask(rehearsal.signed(0))
    grid = rehearsal.grid()
    with rehearsal.place(grid) as place:
        coordinator = Coordinator(place)
        while place.ledger.requests()[0].status != "recovering":
            coordinator.turn()
        step, failures = coordinator.training.step, [OSError]

        def fails(*arguments: object) -> object:
            if failures:
                failures.pop()
                raise FedquitError("no reply can be used")
            return step(*arguments)  # type: ignore[arg-type]

        coordinator.training.step = fails  # type: ignore[method-assign, assignment]
        assert not coordinator.turn()
        rehearsal.clock.ahead -= DAY
        rehearsal.clock.pause(120)
        coordinator.turn()
        assert place.ledger.steps(phase="recover")


def test_a_device_is_not_charged_with_time_by_which_the_clock_was_set(rehearsal: Rehearsal) -> None:
    rehearsal.ask(rehearsal.signed(0))
    grid = rehearsal.grid()
    grid.away = {0}
    with rehearsal.place(grid) as place:
        coordinator = Coordinator(place)
        coordinator.turn()
        assert place.ledger.requests()[0].status == "forgetting"
        rehearsal.clock.ahead += DAY
        for _ in range(3):
            coordinator.turn()
        assert place.ledger.requests()[0].method == "fedquit", "its six hours are not over"
        rehearsal.clock.ahead -= DAY
        rehearsal.clock.pause(TIMEOUT + 60)
        for _ in range(3):
            coordinator.turn()
        assert place.ledger.requests()[0].method == "retrain", "and now they are, although the clock was set back"
