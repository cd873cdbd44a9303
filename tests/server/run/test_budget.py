"""A budget of bytes: after recovery a run continues until it is spent, killed anywhere to the same end."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fedquit.server.run.loop import Loop
from fedquit.server.run.run_folder import RunFolder
from fedquit.server.run.run_state import State
from fedquit.settings import Settings
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.strategies.grid.metered_grid import MeteredGrid

SMALL = {"model": "mlp", "clients": 4, "samples": 80, "scheme": "iid", "holdout": 60, "rounds": 2, "recover": "budget",
         "recover-rounds": 1, "reference": "none"}  # fmt: skip


class Stop(Exception):  # noqa: N818
    """The run is killed here."""


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield


def carry_out(path: Path, stop_at: int | None = None, **changed: Any) -> tuple[State, list[Mapping[str, Any]]]:
    """Carry out a run, or resume it, killed at event `stop_at`; return its state and its events."""
    begun = (path / "settings.json").exists()
    asked = {**SMALL, **{key.replace("_", "-"): value for key, value in changed.items()}}
    folder = RunFolder.open(path) if begun else RunFolder.create(path, Settings.read(asked))
    settings, events = folder.settings(), list[Mapping[str, Any]]()

    def heard(event: Mapping[str, Any]) -> None:
        events.append(event)
        if len(events) - 1 == stop_at:
            raise Stop

    try:
        with InProcessGrid(settings.clients, settings.run_config()) as grid:
            return Loop(MeteredGrid(grid, patience=600), settings, folder, heard).run(), events
    finally:
        folder.release()


def spent(state: State, phases: Sequence[str]) -> int:
    return sum(r.bytes_down + r.bytes_up for phase in phases for r in state.of(phase))


def test_after_recovery_a_run_continues_while_its_budget_lasts(tmp_path: Path) -> None:
    state, _ = carry_out(tmp_path, forget="0,1", budget=5, recover_rounds=2, reference="none", lr_decay=0.5)
    each = spent(state, ["recover"]) // 2
    total = spent(state, ["forget", "recover", "later"])
    assert 5 * each - each < total <= 5 * each, "no round more, and no round less"
    assert [r.number for r in state.of("later")] == [5, 6], "two of training, two of recovery before"
    assert state.models["later"] != state.models["recovered"]
    assert {client for r in state.of("later") for client in r.participants} == {2, 3}


def test_a_budget_that_was_spent_before_ends_with_recovery(tmp_path: Path) -> None:
    state, _ = carry_out(tmp_path, budget=3, recover_rounds=3, reference="none")
    assert state.of("later") == ()
    assert state.models["later"] == state.models["recovered"]
    assert (state.ended["later"], state.reached["later"]) == ("the budget was spent before", False)


def test_stopped_at_any_event_a_run_with_two_requests_ends_with_the_same_model(tmp_path: Path) -> None:
    changed: dict[str, Any] = {"clients": 3, "samples": 30, "rounds": 1, "forget": "0;1", "budget": 4, "holdout": 10}

    def outcome(state: State) -> list[Any]:
        rounds = [(r.phase, r.number, r.participants, r.bytes_down, r.bytes_up, r.loss) for r in state.rounds]
        return [state.models, state.ended, state.reached, rounds]

    state, events = carry_out(tmp_path / "whole", **changed)
    assert len(state.of("later")) > 0
    for stop_at in range(len(events)):
        with pytest.raises(Stop):
            carry_out(tmp_path / str(stop_at), stop_at, **changed)
        assert outcome(carry_out(tmp_path / str(stop_at))[0]) == outcome(state), events[stop_at]
