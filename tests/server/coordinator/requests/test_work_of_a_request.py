"""What a request has the ledger do does not grow with the rounds before the first that had its data."""

import numpy as np

from fedquit.server.coordinator import Coordinator
from fedquit.server.ledger import Contribution, Step, steps
from tests.harness.rehearsal import Rehearsal
from tests.server.coordinator.observed_grid import Make, grid_of
from tests.server.ledger.database_work import counted

LATE = 3
"""The device that joins late and then leaves."""


def with_rounds(rehearsal: Rehearsal, rounds: int) -> Rehearsal:
    """Give a ledger rounds to which every device but the late one contributed, and a model that they made."""
    with rehearsal.place(grid_of(rehearsal)) as place:
        arrays = place.models.load(place.initial)
        made = place.models.save({name: np.asarray(value * 1.01, value.dtype) for name, value in arrays.items()})
        names = [place.initial, *(f"{number:064x}" for number in range(1, rounds)), made]
        given = tuple(Contribution(member, 40) for member in range(LATE))
        at = place.clock() - 3600
        with place.ledger._writing() as writing:  # in one transaction: a commit for each would take minutes
            for number in range(1, rounds + 1):
                step = Step(
                    number, "train", None, names[number - 1], names[number], number, given, 0, 1.0, 1.0, 1, 1,
                    {"update_norm": 1.0, "update_norm_mad": 0.1}, at,
                )  # fmt: skip
                steps.add(writing, step)
                writing.log("round", facts=steps.facts_of(step), rows=[("steps", number)])
    return rehearsal


def work_of_a_request(rehearsal: Rehearsal, rounds: int) -> int:
    """Return the work of SQLite for a request from its beginning to its receipt."""
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=rounds + 2)
    request = rehearsal.ask(rehearsal.signed(LATE))
    with counted() as work, rehearsal.place(grid) as place:
        coordinator = Coordinator(place)  # reads all steps, once
        begun = work.done
        while place.ledger.request_line(request.id).status != "done":
            assert coordinator.turn()
        done = work.done - begun
        assert place.ledger.request_line(request.id).has_receipt
        assert place.ledger.check_chain() == []
        return done


def test_the_work_of_a_request_does_not_grow_with_the_rounds_before(make: Make) -> None:
    work = {rounds: work_of_a_request(with_rounds(make(), rounds), rounds) for rounds in (10, 1000)}
    assert work[1000] < 1.1 * work[10], work
