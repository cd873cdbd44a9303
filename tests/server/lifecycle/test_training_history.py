"""What is kept of training for methods that replay it: as much as they need, no more than allowed, gone in the end."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquit.client.data.build_data_and_model import initial_model
from fedquit.errors import FedquitError, InputError
from fedquit.files import write_whole
from fedquit.server.lifecycle.training_history import History, Keep, check_room
from fedquit.server.run.loop import Loop
from fedquit.server.run.run_folder import RunFolder, read_state
from fedquit.server.run.run_state import State
from fedquit.settings import Settings
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.simulations.simulate.run_simulation import run_simulation
from fedquit.strategies.grid.metered_grid import MeteredGrid

SMALL = {"model": "mlp", "clients": 3, "samples": 90, "scheme": "iid", "holdout": 60, "rounds": 3, "recover": "budget",
         "recover-rounds": 1, "reference": "none"}  # fmt: skip
MODEL = {"w": torch.zeros(20), "b": torch.zeros(2)}


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield


class Stop(Exception):  # noqa: N818
    """The run is killed here."""


def carry_out(
    path: Path, listener: Callable[[Mapping[str, Any]], None] = lambda _event: None, only: Any = None, **changed: Any
) -> State:
    """Carry out a small run in a folder, or resume it where it stopped."""
    begun = (path / "settings.json").exists()
    folder = RunFolder.open(path) if begun else RunFolder.create(path, Settings.read({**SMALL, **changed}))
    told = folder.settings()
    try:
        with InProcessGrid(told.clients, told.run_config()) as grid:
            return Loop(MeteredGrid(grid, patience=600), told, folder, listener).run(only)
    finally:
        folder.release()


def tree(path: Path) -> dict[str, str]:
    files = [file for file in (path / "history").rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def outcome(state: State) -> list[Any]:
    return [state.models, state.ended, [(r.phase, r.number, r.participants, r.bytes_up, r.loss) for r in state.rounds]]


def train(
    folder: Path,
    keep: Keep,
    log: list[set[int]],
    clients: int = 3,
    after_write: Callable[[], None] = lambda: None,
    killed: Collection[int] = (),
) -> History:
    """Go through rounds in which those of `log` take part, as the loop does; a kill lets the end of a round out."""
    done: dict[int, set[int]] = {}
    history = History(folder, keep, clients, lambda number: done.get(number, set()))
    for number, participants in enumerate(log, start=1):
        history.begin(number, MODEL)
        after_write()
        for client in participants:
            history.add(number, client, MODEL)
            after_write()
        done[number] = participants
        if number not in killed:
            history.end(number)
    return history


EVERYBODY = [{0, 1, 2}] * 5
LATE = [{0}, {0, 1}, {1}, {2}, {0}]  # client 1 first takes part in round 2, client 2 in round 4


@pytest.mark.parametrize(
    ("keep", "log", "models", "updates"),
    [
        (Keep(), EVERYBODY, [], []),
        (Keep(last=True), EVERYBODY, [5], [5]),
        (Keep(interval=2), EVERYBODY, [1, 3, 5], [1, 3, 5]),
        (Keep(interval=3, last=True), EVERYBODY, [1, 4, 5], [1, 4, 5]),
        (Keep(models=2), EVERYBODY, [1, 3, 5], []),
        (Keep(rollback=True), EVERYBODY, [], []),
        (Keep(rollback=True), LATE, [2, 3, 4], []),
        (Keep(rollback=True, last=True), LATE, [2, 3, 4, 5], [5]),
        (Keep(models=4, interval=2), LATE, [1, 3, 5], [1, 3, 5]),
    ],
)
def test_each_kind_of_history_keeps_the_rounds_it_says(
    tmp_path: Path, keep: Keep, log: list[set[int]], models: list[int], updates: list[int]
) -> None:
    history = train(tmp_path, keep, log)
    assert history.rounds() == models
    assert all(torch.equal(history.model(number)["w"], MODEL["w"]) for number in models)
    found = {(n, c) for n in range(1, 6) for c in range(3) if history.update(n, c) is not None}
    assert found == {(n, c) for n in updates for c in log[n - 1]}


@settings(max_examples=60)
@given(
    keep=st.builds(Keep, st.booleans(), st.integers(0, 3), st.integers(0, 3), st.booleans()),
    log=st.lists(st.sets(st.integers(0, 3), min_size=1), min_size=1, max_size=8),
    killed=st.sets(st.integers(1, 8)),
)
def test_never_more_lies_on_disk_than_was_asked_for(keep: Keep, log: list[set[int]], killed: set[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        one = Path(train(path / "one", Keep(models=1), [set()]).path / "1" / "model.safetensors").stat().st_size
        most = keep.most_bytes(len(log), max(map(len, log)), one)

        def check() -> None:
            assert sum(f.stat().st_size for f in (path / "history").rglob("*") if f.is_file()) <= most

        train(path, keep, log, clients=4, after_write=check, killed=killed)


def test_room_is_counted_in_bytes_of_files_to_the_last_one(tmp_path: Path) -> None:
    asked = Settings.read({**SMALL, "method": "federaser"})
    model = initial_model(asked, 0).state_dict()
    carry_out(tmp_path / "run", method="federaser", only={"train"})
    lies = sum(f.stat().st_size for f in (tmp_path / "run" / "history").rglob("*.safetensors"))
    check_room(asked.model_copy(update={"history_bytes": lies}), Keep(interval=2), model)
    with pytest.raises(InputError, match="history-bytes: up to"):
        check_room(asked.model_copy(update={"history_bytes": lies - 1}), Keep(interval=2), model)


def test_too_little_room_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"history-bytes: up to .* bytes .* 1,000,000 are allowed"):
        run_simulation({**SMALL, "method": "federaser", "history-bytes": 1_000_000}, out=tmp_path / "run", workers=1)
    assert not (tmp_path / "run").exists()
    carry_out(tmp_path / "other", method="fedquit", history_bytes=0)


@pytest.mark.parametrize("method", ["federaser", "projected-ascent"])
def test_after_the_last_request_the_history_is_gone_and_the_log_says_so(tmp_path: Path, method: str) -> None:
    run_simulation({**SMALL, "method": method}, out=tmp_path, workers=1)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert not (tmp_path / "history").exists()
    (purge,) = [event for event in events if event["event"] == "purge"]
    assert purge["bytes"] > 211_240  # more than the mlp once


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ("federaser", {"rounds": 3, "clients": 2}),
        ("projected-ascent", {"rounds": 2, "clients": 2}),
        ("retrain", {"fraction": 0.34, "seed": 3}),
    ],
)
def test_stopped_at_any_event_the_history_is_what_it_would_have_been(
    tmp_path: Path, method: str, changed: dict[str, Any]
) -> None:
    carry_out(tmp_path / "training", only={"train"}, method=method, **changed)
    kept, events = tree(tmp_path / "training"), list[Mapping[str, Any]]()
    assert kept
    expected = outcome(carry_out(tmp_path / "whole", events.append, method=method, **changed))
    for stop_at in range(len(events)):
        path, seen = tmp_path / str(stop_at), iter(range(len(events)))

        def stop(event: Mapping[str, Any], stop_at: int = stop_at, seen: Iterator[int] = seen) -> None:
            if next(seen) == stop_at:
                raise Stop

        with pytest.raises(Stop):
            carry_out(path, stop, method=method, **changed)
        if not read_state(path).ended:
            carry_out(path, only={"train"})
            assert tree(path) == kept, events[stop_at]
        assert outcome(carry_out(path)) == expected, events[stop_at]
        assert not (path / "history").exists()


def test_killed_between_any_two_writes_it_ends_where_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, fail_at = 0, -1

    def counted(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise Stop

    monkeypatch.setattr(os, "fsync", counted)
    how: dict[str, Any] = {"method": "federaser", "rounds": 2, "clients": 2}
    expected = outcome(carry_out(tmp_path / "whole", **how))
    for number in range(3, calls + 1):  # the first two write settings.json: no run has begun
        path, fail_at, calls = tmp_path / f"killed {number}", number, 0
        with pytest.raises(Stop):
            carry_out(path, **how)
        fail_at = -1
        assert outcome(carry_out(path)) == expected, f"write {number}"
        assert not list(path.rglob("*.partial"))
        assert not (path / "history").exists()


@pytest.mark.parametrize("file", ["1/1.safetensors", "1/model.safetensors", "3/2.safetensors"])
def test_a_damaged_file_of_the_history_is_named(tmp_path: Path, file: str) -> None:
    carry_out(tmp_path, method="federaser", only={"train"})
    damaged = tmp_path / "history" / file
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(FedquitError, match=rf"kept history .*{file} cannot be read .*use a method that needs none"):
        carry_out(tmp_path)


def test_a_disk_that_is_full_while_history_is_kept_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_to_full_disk(path: Path, content: bytes) -> None:
        monkeypatch.setattr(os, "fsync", full)
        write_whole(path, content)

    monkeypatch.setattr("fedquit.server.lifecycle.training_history.write_whole", write_to_full_disk)
    with pytest.raises(
        FedquitError, match=r"cannot write .*history/1/model.safetensors: No space left .* do the same again"
    ):
        carry_out(tmp_path, method="federaser")
    assert not list(tmp_path.rglob("*.partial"))
