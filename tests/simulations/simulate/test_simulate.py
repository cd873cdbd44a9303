"""The main job end to end, small: what it writes, that it repeats itself, and that it survives being killed."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fedquit.errors import InputError
from fedquit.server.run.run_folder import read_state
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.simulations.simulate.run_simulation import run_simulation
from tests.harness.waiting import STILL

SMALL = {
    "dataset": "digits",
    "model": "mlp",
    "clients": 3,
    "alpha": 1.0,
    "rounds": 3,
    "recover": "budget",
    "recover_rounds": 2,
    "references": 2,
}
STAGES = ("original", "unlearned", "recovered", "retrained")


def simulate(out: Path, given: dict[str, Any] | None = None, **how: Any) -> dict[str, Any]:
    return run_simulation({**SMALL, **(given or {})}, out=out, **{"workers": 1, **how})[1]


def hashes(document: dict[str, Any]) -> dict[str, str]:
    return {stage: document["stages"][stage]["model_sha256"] for stage in STAGES}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("runs") / "run"
    return out, simulate(out)


@pytest.mark.parametrize("samples", [0, 20])
def test_more_clients_than_samples_are_refused_before_any_worker_starts(
    samples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(grid: InProcessGrid) -> InProcessGrid:
        raise AssertionError(f"{grid} started its workers")

    monkeypatch.setattr(InProcessGrid, "__enter__", start)
    with pytest.raises(InputError, match=f"cannot share {samples or 1438} samples; lower clients or raise samples"):
        simulate(tmp_path / "run", {"clients": 2000, "samples": samples, "forget": "0"})
    assert not (tmp_path / "run").exists()


def test_the_report_has_what_other_programs_read(finished: tuple[Path, dict[str, Any]]) -> None:
    document = finished[1]
    assert document["schema_version"] == 3
    for stage in STAGES:
        for key in ("forget_accuracy", "retain_accuracy", "test_accuracy"):
            assert 0 <= document["stages"][stage][key] <= 1
        assert document["stages"][stage]["forget_loss"] > 0
        assert {"confidence", "entropy", "modified_entropy", "correctness", "yeom"} <= set(
            document["stages"][stage]["attacks"]
        )
    for phase in ("train", "forget", "recover", "retrain"):
        assert set(document["phases"][phase]) == {
            "rounds",
            "bytes_down",
            "bytes_up",
            "seconds",
            "device_seconds",
            "compression_error_down",
            "compression_error_up",
        }
    assert document["phases"]["later"] is document["stages"]["later"] is None
    assert set(document["ratios_to_retraining"]) == {"bytes", "rounds", "seconds", "device_seconds"}
    assert document["verdict"]["outcome"] == "undetermined"
    assert document["verdict"]["reason"] == "needs 5 references, has 2; --references 5"
    assert {"fedquit", "python", "torch", "flwr"} <= set(document["versions"])
    assert document["config"]["clients"] == 3


def test_the_folder_holds_report_events_models_and_figures(finished: tuple[Path, dict[str, Any]]) -> None:
    out, document = finished
    assert json.loads((out / "report.json").read_text()) == document
    for stage, name in hashes(document).items():
        assert hashlib.sha256((out / "models" / f"{stage}.safetensors").read_bytes()).hexdigest() == name
    for figure in ("accuracy.png", "labels.png", "cost.png"):
        assert (out / figure).read_bytes().startswith(b"\x89PNG")
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [e["round"] for e in events if e["event"] == "round" and e["phase"] == "train"] == [1, 2, 3]
    assert not list(out.rglob("*.partial"))


def test_costs_are_those_of_the_messages_and_ratios_follow_from_them(finished: tuple[Path, dict[str, Any]]) -> None:
    phases = finished[1]["phases"]
    phases = {name: phase for name, phase in phases.items() if phase}
    rounds = {name: phase["rounds"] for name, phase in phases.items()}
    assert rounds == {"train": 3, "forget": 1, "recover": 2, "retrain": 3}
    # Every message down holds the model and its config; clients in a round: 3 train, 1 forgets, 2 recover and retrain.
    a_message = phases["retrain"]["bytes_down"] // (3 * 2)
    assert phases["retrain"]["bytes_down"] == 3 * 2 * a_message
    assert phases["train"]["bytes_down"] == 3 * 3 * a_message
    assert phases["recover"]["bytes_down"] == 2 * 2 * a_message
    assert 4 * 52_810 < a_message < 4 * 52_810 * 1.05  # the mlp on 8x8 has 52,810 parameters
    total = {name: phase["bytes_down"] + phase["bytes_up"] for name, phase in phases.items()}
    expected = (total["forget"] + total["recover"]) / total["retrain"]
    assert finished[1]["ratios_to_retraining"]["bytes"] == pytest.approx(expected)
    assert finished[1]["ratios_to_retraining"]["rounds"] == 1.0


def test_the_same_seed_gives_the_same_models_with_one_worker_and_with_two(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    assert hashes(simulate(tmp_path / "two", workers=2)) == hashes(finished[1])


def test_another_seed_gives_other_models(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    other = hashes(simulate(tmp_path / "other", {"seed": 1, "references": 1}))
    assert not set(other.values()) & set(hashes(finished[1]).values())


def test_a_saved_split_given_again_gives_the_same_models(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    split = str(finished[0] / "partition.json")
    again = simulate(tmp_path / "again", {"partition": split, "scheme": "iid", "references": 1})
    assert hashes(again) == hashes(finished[1])


def test_a_start_takes_over_training_and_ends_as_if_it_had_trained(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    whole = simulate(tmp_path / "whole", {"forget": "2", "references": 1})
    short = simulate(tmp_path / "short", {"forget": "2", "references": 1}, start=finished[0])
    assert hashes(short) == hashes(whole)
    assert short["phases"]["train"]["bytes_up"] == whole["phases"]["train"]["bytes_up"]


def test_a_start_that_trained_otherwise_is_refused_before_anything_is_written(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"--start: lr is 0\.1 .* 0\.2 here; training must be the same"):
        simulate(tmp_path / "x", {"lr": 0.2}, start=finished[0])
    assert not (tmp_path / "x").exists()


def test_without_a_reference_the_verdict_is_undetermined(tmp_path: Path) -> None:
    document = simulate(tmp_path / "none", {"reference": "none"})
    assert document["stages"]["retrained"] is None
    assert document["phases"]["retrain"] is None
    assert document["ratios_to_retraining"] is None
    assert document["verdict"]["outcome"] == "undetermined"
    assert not (tmp_path / "none" / "cost.png").exists()


def test_several_clients_are_forgotten_at_once(tmp_path: Path) -> None:
    document = simulate(tmp_path / "two", {"forget": "0,2", "references": 1})
    split = json.loads((tmp_path / "two" / "partition.json").read_text())
    assert document["samples"]["forget"] == len(split["0"]) + len(split["2"])
    assert document["samples"]["retain"] == len(split["1"])


def test_forgetting_is_seen_and_recovery_mends_the_rest(tmp_path: Path) -> None:
    given = {"alpha": 0.1, "rounds": 12, "model": "cnn", "clients": 5, "recover": "utility", "references": 1}
    document = simulate(tmp_path / "real", {**given, "method_settings": "lr=0.001"}, workers=2)
    stages = document["stages"]
    assert stages["unlearned"]["forget_accuracy"] < stages["original"]["forget_accuracy"] - 0.3
    assert stages["recovered"]["test_accuracy"] > stages["unlearned"]["test_accuracy"]
    assert document["phases"]["recover"]["rounds"] < document["phases"]["retrain"]["rounds"]


def test_killed_anywhere_it_ends_where_it_would_have(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"moments drawn with seed {seed}")
    moments = random.Random(seed)
    out, kills = tmp_path / "killed", 0
    for _ in range(3):
        how = ["--resume"] if (out / "settings.json").exists() else _flags()
        process = subprocess.Popen(
            [sys.executable, "-m", "fedquit", "simulate", "--workers", "2", "--out", str(out), *how],
            env={**os.environ, "TMPDIR": str(tmp_path)},  # where it leaves what it cannot remove
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started = time.monotonic()
        before = len(read_state(out).rounds) if out.exists() else 0
        more = moments.randint(1, 3)
        while process.poll() is None and time.monotonic() - started < STILL:  # until some more rounds are done
            if (out / "state.json").exists() and len(read_state(out).rounds) >= before + more:
                break
            time.sleep(0.005)
        time.sleep(moments.random() * 0.05)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills
    _, document = run_simulation({}, out=out, resume=True, workers=1)
    assert hashes(document) == hashes(finished[1])
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    rounds = [(e["phase"], e["round"]) for e in events if e["event"] == "round"]
    assert len(rounds) == len(set(rounds)) == 3 + 1 + 2 + 2 * 3 + 3 * 2


def _flags() -> list[str]:
    return [part for key, value in SMALL.items() for part in (f"--{key.replace('_', '-')}", str(value))]


def test_a_run_resumes_only_with_its_own_settings(finished: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(InputError, match=r"lr: the run in .* has 0\.1, not 0\.5; a run resumes with its own settings"):
        run_simulation({"lr": 0.5}, out=finished[0], resume=True)


def test_a_finished_run_resumed_gives_the_same_report(finished: tuple[Path, dict[str, Any]]) -> None:
    assert run_simulation({}, out=finished[0], resume=True, workers=1)[1] == finished[1]
