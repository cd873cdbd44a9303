"""When a deployment trains: the schedule, a clock that jumps, devices that are missing, one coordinator at a time."""

import contextlib
import itertools

import pytest

from fedquit.errors import FedquitError
from fedquit.server.coordinator import Coordinator
from fedquit.server.ledger import FORGOTTEN
from fedquit.server.page.ledger_view import waits_for
from tests.server.coordinator.observed_grid import Make, grid_of, kinds, members, read, steps


def test_rounds_begin_as_far_apart_as_the_schedule_says_also_after_a_restart(make: Make) -> None:
    rehearsal = make(schedule={"every": 3600})
    rehearsal.run(grid_of(rehearsal), rounds=2)
    rehearsal.run(grid_of(rehearsal), rounds=3)
    for earlier, later in itertools.pairwise(
        steps(rehearsal)
    ):  # seconds are real, and the made clock stands still in them
        assert 3600 <= later.at - (earlier.at - earlier.seconds) < 4500
    assert [step.round for step in steps(rehearsal)] == [1, 2, 3]


MONTH = 30 * 86400.0


@pytest.mark.parametrize("restart", [False, True])
def test_a_clock_that_jumps_stops_no_round(make: Make, restart: bool) -> None:
    rehearsal = make(schedule={"every": 3600})
    grid = grid_of(rehearsal)
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(rehearsal.place(grid))
        began, coordinator = rehearsal.clock.now, Coordinator(place)
        for rounds, ahead in enumerate([0.0, MONTH, 0.0, -MONTH, 0.0], start=1):
            rehearsal.clock.ahead = ahead
            if restart:
                stack.close()
                now, place = rehearsal.clock.now, stack.enter_context(rehearsal.place(grid))
                rehearsal.clock.now, coordinator = now, Coordinator(place)  # not where the log ends
            for _ in range(200):
                if len(place.ledger.steps(phase="train")) == rounds:
                    break
                if not coordinator.turn():
                    rehearsal.clock.pause(60)
            assert len(place.ledger.steps(phase="train")) == rounds
        least = 0 if restart else 4 * 3600 - 600  # a last round a month ago is reason to train now
        assert least <= rehearsal.clock.now - began <= 5 * 3600
        told = [event.facts["seconds"] for event in place.ledger.events() if event.kind == "clock-set"]
        assert told == ([] if restart else [MONTH, -MONTH, -MONTH, MONTH])


def test_after_the_last_round_of_the_schedule_requests_are_still_answered(make: Make) -> None:
    rehearsal = make(schedule={"rounds": 1})
    with pytest.raises(TimeoutError):
        rehearsal.run(grid_of(rehearsal), rounds=2, turns=50)
    request = rehearsal.ask(rehearsal.signed(0))
    rehearsal.run(grid_of(rehearsal), rounds=1)
    with read(rehearsal) as ledger:
        assert ledger.request(request.id).status == "done"
        assert len(ledger.steps(phase="train")) == 1


def test_training_waits_for_enough_devices_and_the_log_says_so_once(make: Make) -> None:
    rehearsal = make(schedule={"min-clients": 4})
    grid = grid_of(rehearsal)
    grid.away = {2}
    with pytest.raises(TimeoutError):
        rehearsal.run(grid, rounds=1, turns=20)
    assert kinds(rehearsal).count("waiting") == 1
    grid.away = set()
    rehearsal.run(grid, rounds=1)
    assert members(steps(rehearsal)[0]) == [0, 1, 2, 3]


def test_a_leave_needs_no_round_and_what_training_waits_for_is_said(make: Make) -> None:
    rehearsal = make(schedule={"min-clients": 3})
    rehearsal.run(grid_of(rehearsal), rounds=1)
    for member in range(4):
        request = rehearsal.ask(rehearsal.signed(member))
        rehearsal.run(grid_of(rehearsal), rounds=1)
        with read(rehearsal) as ledger:
            assert ledger.request(request.id).status in FORGOTTEN
            told = waits_for(ledger.members(), rehearsal.federation)
        assert told.startswith(["", "waiting for 1 more device:", "waiting for 2 more", "waiting for 3 more"][member])
        assert bool(told) == (member > 0)


def test_with_trusted_data_every_round_is_measured_and_no_device_is_asked_to(make: Make) -> None:
    rehearsal = make(trusted={"data": "trusted.npz"})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    assert all(0 < step.measures["accuracy"] < 1 for step in steps(rehearsal))
    assert {kind for kind, _ in grid.sent} == {"train"}


def test_a_request_near_its_deadline_is_served_first_and_logged(make: Make) -> None:
    rehearsal = make(forgetting={"deadline": 1_000_000})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    first = rehearsal.ask(rehearsal.signed(0))
    rehearsal.tell({"forgetting": {"deadline": 100}})
    second = rehearsal.ask(rehearsal.signed(1))
    rehearsal.clock.pause(95)
    rehearsal.run(grid, rounds=1)
    with read(rehearsal) as ledger:
        served = [event.request for event in ledger.events() if event.kind == "done"]
        near = [event.request for event in ledger.events() if event.kind == "deadline-near"]
    assert served == [second.id, first.id]
    assert near == [second.id]


def test_when_the_last_device_leaves_its_request_ends(make: Make) -> None:
    rehearsal = make(schedule={"min-clients": 1})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    for member in range(4):
        rehearsal.ask(rehearsal.signed(member))
    rehearsal.run(grid, rounds=1)
    with read(rehearsal) as ledger:
        assert [request.status for request in ledger.requests()][-1] == "unrecovered", "nobody is left to recover with"
        assert {request.status for request in ledger.requests()} <= set(FORGOTTEN)


def test_two_coordinators_do_not_work_in_one_folder(make: Make) -> None:
    rehearsal = make()
    with (
        rehearsal.place(grid_of(rehearsal)),
        pytest.raises(FedquitError, match="another coordinator is at work"),
        rehearsal.place(grid_of(rehearsal)),
    ):
        pass
