"""What a deployment stores: models by their files, bytes of steps, state of strategies, objectives and codecs."""

import csv
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fedquit.client.receipts import read_receipt
from fedquit.server.coordinator import Coordinator
from fedquit.server.coordinator.kept_states import KeptStates
from fedquit.server.lifecycle.rounds.train_round import RoundState
from fedquit.server.provision.backup.make_backup import _copy_folders
from fedquit.server.provision.backup.unfinished_backup import backup_folders
from tests.server.coordinator.observed_grid import Make, grid_of, read, steps


def test_the_receipt_states_the_models_that_the_ledger_names(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    trained = [step.model_after for step in steps(rehearsal)]
    request = rehearsal.ask(rehearsal.signed(1))
    rehearsal.run(grid, rounds=2)
    with read(rehearsal) as ledger:
        told = ledger.request(request.id)
    key: Any = load_pem_public_key((rehearsal.server / "receipts.pub").read_bytes())
    receipt = read_receipt(told.receipt or b"", key)
    assert receipt.predicate["models"]["before"] == told.model_before == trained[-1]
    assert receipt.predicate["models"]["after"] == told.model_after == steps(rehearsal)[-1].model_after
    assert receipt.predicate["purged"]["models"] == sorted(trained)


def test_the_receipt_names_the_models_that_a_backup_in_the_making_holds(make: Make, tmp_path: Path) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    trained = {step.model_after for step in steps(rehearsal)}
    request = rehearsal.ask(rehearsal.signed(1))
    with backup_folders(rehearsal.server, tmp_path / "saved.tar") as (links, _):
        _copy_folders(rehearsal.server, links)
        held = {path.stem for path in (links / "models").iterdir()} & trained
        rehearsal.run(grid, rounds=2)
    with read(rehearsal) as ledger:
        receipt = ledger.request(request.id).receipt
    key: Any = load_pem_public_key((rehearsal.server / "receipts.pub").read_bytes())
    purged = read_receipt(receipt or b"", key).predicate["purged"]
    assert held
    assert set(purged["models"]) == trained - held
    assert {name for name, why in purged["kept"].items() if why == "a backup that was being made holds it"} == held


def test_the_bytes_of_the_steps_are_those_of_the_cost_log(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    rehearsal.ask(rehearsal.signed(1))
    rehearsal.run(grid, rounds=3)
    with (rehearsal.server / "costs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    up, down = (sum(int(r["payload_bytes"]) for r in rows if r["direction"] == way) for way in ("up", "down"))
    with read(rehearsal) as ledger:
        [done] = [event for event in ledger.events() if event.kind == "done"]
        told = [(step.bytes_down, step.bytes_up) for step in ledger.steps()]
    told.append((done.facts["verify_bytes_down"], done.facts["verify_bytes_up"]))
    assert (down, up) == tuple(map(sum, zip(*told, strict=True)))
    assert {row["phase"] for row in rows} == {"train", "forget", "recover", "evaluate"}


@pytest.mark.parametrize(
    "told", [{"strategy": "fedavgm", "strategy-settings": "server_momentum=0.9"}, {"objective": "fedgkd"}]
)
def test_strategy_and_objective_state_survive_a_restart(make: Make, told: dict[str, Any]) -> None:
    whole, parts, robbed = (make(training=told) for _ in range(3))
    whole.run(grid_of(whole), rounds=3)
    for rounds in (1, 2, 3):
        parts.run(grid_of(parts), rounds=rounds)
        robbed.run(grid_of(robbed), rounds=rounds)
        shutil.rmtree(robbed.server / "kept")
    last = [steps(rehearsal)[-1].model_after for rehearsal in (whole, parts, robbed)]
    assert last[0] == last[1] != last[2]


def test_models_are_named_by_their_files_and_what_no_step_names_is_removed(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    stray = rehearsal.server / "models" / f"{'0' * 64}.safetensors"
    stray.write_bytes(b"left by a killed attempt")
    with rehearsal.place(grid) as place:
        Coordinator(place)
    files = list((rehearsal.server / "models").iterdir())
    assert stray not in files
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.stem for path in files)


def test_compression_and_its_error_feedback_survive_restarts_of_both_ends(make: Make) -> None:
    coded = {"compress-up": "top-k+int8+zstd", "compress-down": "fp16+zstd", "compress-settings": {"share": 0.2}}
    whole, parts = make(training=coded), make(training=coded)
    plain, robbed = make(), make(training=coded)
    for rehearsal in (whole, plain):
        rehearsal.run(grid_of(rehearsal), rounds=2)
    for rounds in (1, 2):
        parts.run(grid_of(parts), rounds=rounds)
        robbed.run(grid_of(robbed), rounds=rounds)
        for kit in robbed.kits():
            shutil.rmtree(kit.path(kit.record).parent / "memory")
    last = [steps(rehearsal)[-1] for rehearsal in (whole, parts, robbed, plain)]
    assert last[0].model_after == last[1].model_after != last[2].model_after
    assert last[0].bytes_up < 0.4 * last[3].bytes_up
    assert last[0].bytes_down < 0.6 * last[3].bytes_down
    assert 0 < last[0].measures["compression_error_down"] < 0.001 < last[0].measures["compression_error_up"] < 1
    request = whole.ask(whole.signed(1))
    whole.run(grid_of(whole), rounds=3)
    with read(whole) as ledger:
        assert ledger.request(request.id).status == "done"
    kept = {kit.number: list((kit.path(kit.record).parent / "memory").rglob("*-owed")) for kit in whole.kits()}
    assert not kept[1], "the device that left owes nothing"
    assert {path.name.partition("-")[0] for paths in kept.values() for path in paths} == {"1"}, "nor is it of before"


def test_what_a_killed_attempt_kept_is_not_read_as_that_of_the_next(tmp_path: Path) -> None:
    kept = KeptStates(tmp_path)
    kept.save(7, RoundState(objective_state={"seen": np.ones(2)}, optimizer_state={"m": np.zeros(1)}), nth=3)
    kept.save(7, RoundState(optimizer_state={"m": np.ones(1)}), nth=1)
    assert (kept.load(7)[0].objective_state, kept.load(7)[1]) == (None, 1)
    kept.save(7, RoundState(), nth=1)
    assert kept.load(7) == (RoundState(), 0)
