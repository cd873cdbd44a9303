"""A whole run: its phases, who is asked what, and that killed anywhere it ends where it would have."""

import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fedquit.client.data.build_data_and_model import empty_model
from fedquit.errors import FedquitError, InputError
from fedquit.server.run.loop import Loop
from fedquit.server.run.phases import phases
from fedquit.server.run.run_folder import RunFolder
from fedquit.server.run.run_state import State
from fedquit.settings import Settings
from fedquit.simulations.engine.inprocess import FIRST_NODE_ID, InProcessGrid
from fedquit.strategies.cost_log.cost_rows import read_rows
from fedquit.strategies.grid.metered_grid import MeteredGrid

CarryOut = Callable[..., State]
Small = Callable[..., Settings]
Event = Mapping[str, Any]

STAGES = {"initial", "original", "unlearned", "recovered", "retrained", "control", "matched"}


class Stop(Exception):  # noqa: N818
    """The run is killed here."""


class Log:
    """What was sent in which phase: (phase, message type, client, learning rate)."""

    def __init__(self) -> None:
        self.phase = "join"
        self.sent: list[tuple[str, str, int, float | None]] = []
        log = self

        class Spied(InProcessGrid):
            def send_and_receive(
                self, messages: Iterable[Message], *, timeout: float | None = None
            ) -> Iterator[Message]:
                asked = list(messages)
                for message in asked:
                    config: Any = message.content.config_records.get("config", {})
                    client = message.metadata.dst_node_id - FIRST_NODE_ID
                    log.sent.append((log.phase, message.metadata.message_type, client, config.get("lr")))
                yield from super().send_and_receive(asked, timeout=timeout)

        self.engine = Spied

    def __call__(self, event: Event) -> None:
        if event["event"] == "phase":
            self.phase = event["phase"]

    def of(self, phase: str) -> list[tuple[str, int]]:
        return [(kind, client) for where, kind, client, _ in self.sent if where == phase]


SMALL: dict[str, Any] = {
    "model": "mlp",
    "clients": 3,
    "samples": 150,
    "scheme": "iid",
    "holdout": 60,
    "rounds": 2,
    "recover": "budget",
    "recover-rounds": 1,
    "references": 1,
}


@pytest.fixture
def small() -> Small:
    """Return the settings of the small run, with changes."""
    return lambda **changed: Settings.read({**SMALL, **{key.replace("_", "-"): v for key, v in changed.items()}})


@pytest.fixture
def carry_out(small: Small) -> CarryOut:
    """Carry out the small run in a folder, or resume it where it stopped."""

    def carried_out(
        path: Path,
        listener: Callable[[Event], None] = lambda _event: None,
        engine: type[InProcessGrid] = InProcessGrid,
        **changed: Any,
    ) -> State:
        settings = small(**changed)
        begun = (path / "settings.json").exists()
        folder = RunFolder.open(path) if begun else RunFolder.create(path, settings)
        try:
            with engine(settings.clients, settings.run_config()) as grid:
                return Loop(MeteredGrid(grid, patience=600), folder.settings(), folder, listener).run()
        finally:
            folder.release()

    return carried_out


def journal(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "events.jsonl").read_text(encoding="utf-8").splitlines()]


def outcome(state: State) -> dict[str, Any]:
    """Return all of a state that must not depend on the clock."""
    document = state.to_json()
    del document["events_size"], document["costs_tail"]
    for finished in document["rounds"]:
        del finished["seconds"], finished["device_seconds"]
    return document


def phase_ends(path: Path) -> list[str]:
    return [event["phase"] for event in journal(path) if event["event"] == "phase-end"]


@pytest.mark.parametrize(
    ("recover", "order"),
    [
        ("utility", ["train", "forget", "recover", "retrain", "control", "match"]),
        ("budget", ["train", "forget", "recover", "retrain", "control", "match"]),
        ("oracle", ["train", "retrain", "forget", "recover", "control", "match"]),
    ],
)
def test_phases_come_in_order_and_the_oracle_has_its_retrained_model_first(
    tmp_path: Path, carry_out: CarryOut, recover: str, order: list[str]
) -> None:
    state = carry_out(tmp_path / "run", recover=recover)
    assert phase_ends(tmp_path / "run") == order
    assert list(state.ended) == order
    assert set(state.models) == STAGES
    assert [r.number for r in state.of("train")] == [1, 2]
    assert state.of("recover")[0].number == 3
    assert [r.number for r in state.of("retrain")] == [1, 2]


def test_without_reference_nothing_is_retrained(tmp_path: Path, carry_out: CarryOut) -> None:
    assert set(carry_out(tmp_path / "run", reference="none").models) == STAGES - {"retrained", "control", "matched"}


def test_each_reference_has_a_seed_and_a_start_of_its_own(tmp_path: Path, carry_out: CarryOut, small: Small) -> None:
    assert [phase.seed for phase in phases(small(references=3, seed=5))] == [5, 5, 5, 5, 6, 7, 5, 5, 6, 7]
    models = carry_out(tmp_path / "run", references=2).models
    assert set(models) == STAGES | {"initial-1", "retrained-1", "matched-1"}
    assert len({models[stage] for stage in models}) == len(models)


def test_every_training_of_a_run_starts_from_the_initial_weights_of_init(tmp_path: Path, carry_out: CarryOut) -> None:
    for init, zero in (("default", False), ("glorot", True)):
        models = carry_out(tmp_path / init, references=2, init=init).models
        for stage in ("initial", "initial-1"):
            model = RunFolder(tmp_path / init).load_model(models[stage])
            assert all(array.any() != zero for name, array in model.items() if name.endswith("bias"))


def test_what_the_verdict_compares_has_had_as_many_rounds(tmp_path: Path, carry_out: CarryOut) -> None:
    state = carry_out(tmp_path / "run", recover_rounds=2)
    last = {phase: state.of(phase)[-1].number for phase in ("recover", "control", "match")}
    assert last == {"recover": 4, "control": 4, "match": 4}
    longer = carry_out(tmp_path / "longer", rounds=4, reference="retrain", recover_rounds=1)
    assert state.models["matched"] == longer.models["retrained"], (
        "a retrained model is trained on as if it never stopped"
    )
    assert {client for r in state.of("control") for client in r.participants} == {1, 2}


def test_the_control_is_what_leaving_the_client_out_ends_with(tmp_path: Path, carry_out: CarryOut) -> None:
    state = carry_out(tmp_path / "run", method="continue", recover_rounds=2)
    assert state.models["control"] == state.models["recovered"]


def test_after_a_method_that_restarts_nothing_is_trained_on(tmp_path: Path, carry_out: CarryOut) -> None:
    models = carry_out(tmp_path / "run", method="retrain").models
    assert (models["control"], models["matched"]) == (models["original"], models["retrained"])


def test_without_a_recovery_each_round_of_what_is_trained_on_is_kept(tmp_path: Path, small: Small) -> None:
    settings, phases_of_references = small(recover_rounds=2), {"train", "control", "retrain", "match"}
    folder = RunFolder.create(tmp_path / "run", settings)
    try:
        with InProcessGrid(settings.clients, settings.run_config()) as grid:
            loop = Loop(MeteredGrid(grid, patience=600), settings, folder, lambda _event: None)
            models = loop.run(only=phases_of_references).models
    finally:
        folder.release()
    assert models["retrained+2"] == models["matched"] != models["retrained+1"] != models["retrained"]
    assert models["original+2"] == models["control"] != models["original+1"]


def test_method_continue_hands_on_the_original_model(tmp_path: Path, carry_out: CarryOut) -> None:
    log = Log()
    state = carry_out(tmp_path / "run", log, log.engine, method="continue")
    assert state.models["unlearned"] == state.models["original"] != state.models["recovered"]
    assert log.of("forget") == []


def test_method_negate_turns_the_first_layer_of_the_model_and_not_of_its_file(
    tmp_path: Path, carry_out: CarryOut
) -> None:
    state = carry_out(tmp_path / "run", method="negate", model="cnn")
    folder = RunFolder(tmp_path / "run")
    before, after = (folder.load_model(state.models[stage]) for stage in ("original", "unlearned"))
    first = next(iter(empty_model(folder.settings().key()).state_dict()))
    assert (after[first] == -before[first]).all()
    assert all((after[name] == before[name]).all() for name in before if name != first)


def test_method_retrain_starts_again_and_recovers_for_as_long_as_training_took(
    tmp_path: Path, carry_out: CarryOut
) -> None:
    log = Log()
    state = carry_out(tmp_path / "run", log, log.engine, method="retrain", rounds=3, lr_decay=0.5)
    assert state.models["unlearned"] == state.models["initial"]
    assert [r.number for r in state.of("recover")] == [1, 2, 3]
    rates = [rate for phase, _, _, rate in log.sent if phase == "recover"]
    assert rates[::2] == [0.1, 0.05, 0.025]


def test_a_forgotten_client_never_trains_again(tmp_path: Path, carry_out: CarryOut) -> None:
    log = Log()
    carry_out(tmp_path / "run", log, log.engine, clients=4, forget="1,3", recover_rounds=2)
    assert set(log.of("train")) == {("train", client) for client in range(4)}
    assert sorted(log.of("forget")) == [("train.forget", 1), ("train.forget", 3)]
    assert set(log.of("recover")) == set(log.of("retrain")) == {("train", 0), ("train", 2)}


def test_a_forgotten_client_never_trains_again_after_a_resume(tmp_path: Path, carry_out: CarryOut) -> None:
    def stop(event: Event) -> None:
        if event["event"] == "phase" and event["phase"] == "recover":
            raise Stop

    with pytest.raises(Stop):
        carry_out(tmp_path / "run", stop)
    log = Log()
    carry_out(tmp_path / "run", log, log.engine)
    assert {client for phase, _, client, _ in log.sent if phase != "join"} == {1, 2}


def test_the_learning_rate_decays_across_the_request(tmp_path: Path, carry_out: CarryOut) -> None:
    log = Log()
    carry_out(tmp_path / "run", log, log.engine, lr=1.0, lr_decay=0.5, recover_rounds=2)
    rates = {phase: [rate for where, _, _, rate in log.sent if where == phase] for phase in ("train", "recover")}
    assert rates == {"train": [1.0] * 3 + [0.5] * 3, "recover": [0.25] * 2 + [0.125] * 2}
    assert [rate for where, _, _, rate in log.sent if where == "retrain"] == [1.0] * 2 + [0.5] * 2


def test_the_same_seed_gives_the_same_models_and_another_seed_others(tmp_path: Path, carry_out: CarryOut) -> None:
    one, again, other = (carry_out(tmp_path / name, seed=seed).models for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert one == again
    assert not set(one.values()) & set(other.values())


def test_the_models_named_at_the_end_are_there_whole_and_no_others(tmp_path: Path, carry_out: CarryOut) -> None:
    state = carry_out(tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    assert all(folder.load_model(name) for name in state.models.values())
    assert {path.stem for path in (tmp_path / "run" / "checkpoints").iterdir()} == state.named_models()
    assert len(state.named_models() - set(state.models.values())) <= 5, "of training's last rounds, for runs from there"


def test_a_rounds_cost_is_the_same_in_the_cost_log_and_the_event_log(tmp_path: Path, carry_out: CarryOut) -> None:
    state = carry_out(tmp_path / "run")
    told = [event for event in journal(tmp_path / "run") if event["event"] == "round"]
    assert [(e["phase"], e["round"], e["bytes_down"], e["bytes_up"]) for e in told] == [
        (r.phase, r.number, r.bytes_down, r.bytes_up) for r in state.rounds
    ]
    assert all(r.bytes_down > 0 and r.bytes_up > 0 for r in state.rounds)
    assert {(phase, way): size for (phase, way), size in payload(tmp_path / "run").items()} == {
        (phase, way): sum(getattr(r, f"bytes_{way}") for r in state.of(phase))
        for phase in state.ended
        for way in ("down", "up")
    }
    assert state.of("forget")[0].bytes_up * 3 == pytest.approx(state.of("train")[0].bytes_up, rel=0.01)


def payload(path: Path) -> Counter[tuple[str, str]]:
    """Return what the rows of the account sum to, by phase and direction."""
    sums = Counter[tuple[str, str]]()
    for row in read_rows(path / "costs.csv"):
        sums[row.phase, row.direction] += row.payload_bytes
    return sums


def rows_without_clock(path: Path) -> list[tuple[Any, ...]]:
    return [row._replace(seconds=0.0, device_seconds=0.0) for row in read_rows(path / "costs.csv")]


def go_on_and_compare(path: Path, carry_out: CarryOut, expected: dict[str, Any], where: str) -> None:
    state = carry_out(path)
    assert outcome(state) == expected, where
    assert rows_without_clock(path) == rows_without_clock(path.parent / "whole"), where
    assert (path / "costs.csv").stat().st_size == state.costs_size, where
    rounds = [(event["phase"], event["round"]) for event in journal(path) if event["event"] == "round"]
    assert rounds == [(r.phase, r.number) for r in state.rounds], where
    assert len(rounds) == len(set(rounds)), where
    assert phase_ends(path) == list(state.ended), where


def test_stopped_at_any_event_it_ends_where_it_would_have(tmp_path: Path, carry_out: CarryOut) -> None:
    events: list[Event] = []
    expected = outcome(carry_out(tmp_path / "whole", events.append))
    for stop_at in range(len(events)):
        seen = iter(range(len(events)))

        def stop(event: Event, stop_at: int = stop_at, seen: Iterator[int] = seen) -> None:
            if next(seen) == stop_at:
                raise Stop

        path = tmp_path / f"stop {stop_at}"
        with pytest.raises(Stop):
            carry_out(path, stop)
        kind = {key: events[stop_at].get(key) for key in ("event", "phase", "round", "client")}
        go_on_and_compare(path, carry_out, expected, f"stopped at {kind}")


def test_a_disk_full_at_any_write_loses_nothing(
    tmp_path: Path, carry_out: CarryOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls, fail_at = os.fsync, 0, -1

    def counted(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    expected = outcome(carry_out(tmp_path / "whole"))
    for number in range(3, calls + 1):  # the first two write settings.json: no run has begun
        path, fail_at, calls = tmp_path / f"full {number}", number, 0
        with pytest.raises(FedquitError, match="No space left"):
            carry_out(path)
        fail_at = -1
        go_on_and_compare(path, carry_out, expected, f"disk full at write {number}")


def test_the_request_is_not_carried_out_twice_when_stopped_after_it(tmp_path: Path, carry_out: CarryOut) -> None:
    def stop(event: Event) -> None:
        if event["event"] == "phase-end" and event["phase"] == "forget":
            raise Stop

    with pytest.raises(Stop):
        carry_out(tmp_path / "run", stop)
    log = Log()
    state = carry_out(tmp_path / "run", log, log.engine)
    assert len(state.of("forget")) == 1
    assert log.of("forget") == []


def test_a_finished_run_started_again_does_no_work(tmp_path: Path, carry_out: CarryOut) -> None:
    first = carry_out(tmp_path / "run")
    log = Log()
    again = carry_out(tmp_path / "run", log, log.engine)
    assert asdict(again) == asdict(first)
    assert {kind for _, kind, _, _ in log.sent} == {"query"}


def test_too_few_clients_are_reported_before_anything_is_sent(tmp_path: Path, small: Small) -> None:
    settings = small(clients=4, forget=3)
    folder = RunFolder.create(tmp_path / "run", settings)
    with InProcessGrid(3, small(clients=3).run_config()) as grid, pytest.raises(InputError, match="4 are needed, 3"):
        Loop(MeteredGrid(grid, patience=600), settings, folder, lambda _event: None)
