"""Retraining from the last model without the forgotten clients: that model bit for bit, and without them from there."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fedquit.server.run.loop import Loop
from fedquit.server.run.run_folder import RunFolder
from fedquit.server.run.run_state import State
from fedquit.settings import Settings
from fedquit.simulations.engine.inprocess import FIRST_NODE_ID, InProcessGrid
from fedquit.strategies.grid.array_record import arrays_of_record
from fedquit.strategies.grid.metered_grid import MeteredGrid

ROUNDS = 5
SMALL = {"model": "mlp", "clients": 4, "samples": 80, "scheme": "iid", "holdout": 60, "rounds": ROUNDS,
         "fraction": 0.25, "lr-decay": 0.5, "method": "retrain", "reference": "none"}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield


class Log(InProcessGrid):
    """What was sent: (phase, client, learning rate, the model's bytes)."""

    phase = "join"
    sent: list[tuple[str, int, float, bytes]]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in (asked := list(messages)):
            if self.phase != "join":
                arrays = arrays_of_record(message.content.array_records["arrays"])
                model = b"".join(arrays[name].tobytes() for name in sorted(arrays))
                rate: Any = message.content.config_records["config"].get("lr", 0.0)
                self.sent.append((self.phase, message.metadata.dst_node_id - FIRST_NODE_ID, rate, model))
        yield from super().send_and_receive(asked, timeout=timeout)

    def of(self, phase: str) -> list[tuple[int, float, bytes]]:
        return [row for where, *row in self.sent if where == phase]  # type: ignore[misc]


def carry_out(path: Path, **changed: Any) -> tuple[State, Log]:
    settings = Settings.read({**SMALL, **changed})
    folder = RunFolder.create(path, settings)
    with Log(settings.clients, settings.run_config()) as log:
        log.sent = []

        def heard(event: Mapping[str, Any]) -> None:
            log.phase = event["phase"] if event["event"] == "phase" else log.phase

        state = Loop(MeteredGrid(log, patience=600), folder.settings(), folder, heard).run()
    folder.release()
    return state, log


def first_rounds(state: State) -> dict[int, int]:
    """Client -> the first round that it took part in; nobody who took no part."""
    return {c: r.number for r in reversed(state.of("train")) for c in r.participants}


@pytest.mark.parametrize(("seed", "leaver"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 0), (5, 1)])
def test_retraining_starts_from_the_model_before_the_clients_first_round(
    tmp_path: Path, seed: int, leaver: int
) -> None:
    state, log = carry_out(tmp_path / "run", seed=seed, forget=leaver)
    first = first_rounds(state).get(leaver, ROUNDS)
    trained, again = log.of("train"), log.of("recover")
    assert len(trained) == ROUNDS, "one of the four clients in each round"
    assert again[0][2] == trained[first - 1][2]
    assert all(client != leaver for client, _, _ in trained[: first - 1] + again)
    assert [r.number for r in state.of("recover")] == list(range(first, ROUNDS + 1))
    assert [rate for _, rate, _ in again] == [0.1 * 0.5 ** (number - 1) for number in range(first, ROUNDS + 1)]
    assert log.of("forget") == [], "the server alone"


def test_the_seeds_above_roll_back_to_the_start_to_the_middle_and_to_the_end(tmp_path: Path) -> None:
    reached = set()
    for seed, leaver in ((0, 0), (1, 1), (2, 2), (3, 3), (4, 0), (5, 1)):
        state, _ = carry_out(tmp_path / str(seed), seed=seed, forget=leaver)
        reached.add(state.of("forget")[0].number)
    assert min(reached) == 0
    assert len(reached) >= 3


def test_a_rollback_restores_a_model_without_any_forgotten_client(tmp_path: Path) -> None:
    state, log = carry_out(tmp_path / "run", seed=7, forget="0,3")
    first = min(first_rounds(state).get(client, ROUNDS) for client in (0, 3))
    assert 1 < first < ROUNDS, "the seed tells nothing: take another"
    assert log.of("recover")[0][2] == log.of("train")[first - 1][2]
    assert {client for client, _, _ in log.of("recover")} <= {1, 2}


@pytest.mark.parametrize("seed", range(8))
def test_a_later_rollback_never_restores_a_model_with_the_first_clients_data(tmp_path: Path, seed: int) -> None:
    state, log = carry_out(tmp_path / "run", seed=seed, forget="0;1")
    first = first_rounds(state)
    clean = min(first.get(client, ROUNDS) for client in (0, 1))
    assert state.of("forget-2")[0].number <= clean - 1
    start = state.of("forget-2")[0].number
    assert log.of("recover-2")[0][2] == log.of("train")[start][2]
    assert {client for client, _, _ in log.of("recover-2")} <= {2, 3}


def test_a_whole_federation_in_every_round_leaves_only_the_untrained_model(tmp_path: Path) -> None:
    state, log = carry_out(tmp_path / "run", fraction=1.0, rounds=2, forget=1)
    assert state.models["unlearned"] == state.models["initial"]
    assert not (tmp_path / "run" / "history").exists()
    assert log.of("recover")[0][2] == log.of("train")[0][2]
