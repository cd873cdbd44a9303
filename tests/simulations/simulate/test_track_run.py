"""A run is read back from every tracker as its report and journal have it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedquit.server.run.run_folder import read_state
from fedquit.simulations.simulate.track_run import numbers_of
from tests.fedquit.trackers.read_back import (
    mlflow_scalars,
    tensorboard_scalars,
    tensorboard_tags,
    wandb_said,
    wandb_scalars,
)

TINY = ["--model", "mlp", "--clients", "3", "--alpha", "1", "--rounds", "2", "--recover", "budget"]
TINY += ["--recover-rounds", "1", "--references", "1", "--workers", "1"]
WANDB_ALONE = (
    "import wandb; run = wandb.init(dir='.', project='alone'); run.log({'kept': 2.0, 'round': 1}); run.finish()"
)


def environment(**told: str) -> dict[str, str]:
    """Return this process's environment without what it says of W&B, and with what is told."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")} | told


def simulate(out: Path, *flags: str, **told: str) -> "subprocess.CompletedProcess[str]":
    """Run a tiny simulation; MLflow's store is a file beside its folder."""
    told = {"MLFLOW_TRACKING_URI": f"sqlite:///{out.parent / 'mlflow.db'}", "WANDB_MODE": "offline"} | told
    return subprocess.run(
        [sys.executable, "-m", "fedquit", "simulate", *TINY, "--out", str(out), "--json", *flags],
        cwd=out.parent, env=environment(**told), capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Run once with the trackers that are libraries; return the folder and the report."""
    out = tmp_path_factory.mktemp("tracked") / "mine"
    done = simulate(out, "--track", "tensorboard,mlflow")
    assert done.returncode == 0, done.stderr
    assert "tracking stopped" not in done.stderr
    return out, json.loads(done.stdout)


@pytest.fixture(scope="module")
def tracked_by_wandb(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Run once with W&B, a process of its own, where that process keeps anything at all; return folder and report."""
    out = tmp_path_factory.mktemp("tracked_by_wandb") / "mine"
    alone = out.parent / "alone"
    alone.mkdir()
    tried = subprocess.run(
        [sys.executable, "-c", WANDB_ALONE], cwd=alone, env=environment(WANDB_MODE="offline"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if wandb_scalars(alone) != {"kept": {1: 2.0}, "round": {1: 1.0}}:
        pytest.skip(f"W&B keeps nothing here, without fedquit: {tried.stderr[-300:]}")
    done = simulate(out, "--track", "wandb")
    assert done.returncode == 0, done.stderr
    assert "tracking stopped" not in done.stderr, done.stderr[-2000:]
    return out, json.loads(done.stdout)


def expected(out: Path) -> dict[str, dict[int, float]]:
    """Return what was measured in every round, as the run's state has it."""
    found: dict[str, dict[int, float]] = {}
    for finished in read_state(out).rounds:
        for name, value in numbers_of(finished).items():
            found.setdefault(name, {})[finished.number] = value
    assert {"train/holdout_accuracy", "train/bytes_up", "forget/loss", "retrain/device_seconds"} <= set(found)
    return found


def check_rounds(found: Mapping[str, Mapping[int, float]], out: Path) -> None:
    """See that a tracker has every number of every round."""
    for name, values in expected(out).items():
        assert {step: found[name][step] for step in values} == pytest.approx(values, rel=1e-5), name


def test_tensorboard_has_every_round_the_verdict_and_the_figures(tracked: tuple[Path, dict[str, Any]]) -> None:
    out, report = tracked
    found = tensorboard_scalars(out / "tensorboard")
    check_rounds(found, out)
    recovered = report["stages"]["recovered"]["test_accuracy"]
    assert found["stages/recovered/test_accuracy"][0] == pytest.approx(recovered)
    assert {"accuracy", "labels", "cost"} <= tensorboard_tags(out / "tensorboard", "images")
    texts = {name.partition("/text_summary")[0] for name in tensorboard_tags(out / "tensorboard", "tensors")}
    assert {"settings", "verdict", "report", "train/ended"} <= texts


def test_mlflow_has_every_round_settings_verdict_and_the_report(
    tracked: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    out, report = tracked
    client = MlflowClient(f"sqlite:///{out.parent / 'mlflow.db'}")
    run_id = json.loads((out / "trackers.json").read_text())["mlflow"]
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "mine")
    check_rounds(mlflow_scalars(client, run_id), out)
    given = {key: str(value) for key, value in report["config"].items() if value != "" and key != "partition"}
    assert given.items() <= run.data.params.items()
    assert run.data.tags["verdict"] == report["verdict"]["outcome"]
    monkeypatch.chdir(out.parent)
    listed = {each.path for each in client.list_artifacts(run_id)}
    assert listed == {"report.json", "accuracy.png", "labels.png", "cost.png"}  # and no model
    kept = client.download_artifacts(run_id, "report.json", str(out.parent))
    assert json.loads(Path(kept).read_text()) == report


def test_wandb_offline_has_every_round_settings_and_verdict(tracked_by_wandb: tuple[Path, dict[str, Any]]) -> None:
    out, report = tracked_by_wandb
    check_rounds(wandb_scalars(out), out)
    assert json.loads(wandb_said(out, "config")["lr"]) == report["config"]["lr"]
    assert json.loads(wandb_said(out, "summary")["verdict"]) == report["verdict"]["outcome"]


def test_a_tracker_that_comes_later_is_told_of_the_rounds_that_were(
    tracked: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "later"
    assert simulate(out).returncode == 0
    assert not (out / "tensorboard").exists()
    done = simulate(out, "--resume", "--track", "tensorboard")
    assert done.returncode == 0, done.stderr
    check_rounds(tensorboard_scalars(out / "tensorboard"), out)


def test_an_unreachable_tracker_is_reported_once_and_changes_no_run(
    tracked: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    away = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = simulate(tmp_path / "away", "--track", "mlflow", **away)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("mlflow: tracking stopped, the run continues") == 1
    models = [
        {stage: found["model_sha256"] for stage, found in report["stages"].items() if found}
        for report in (json.loads(done.stdout), tracked[1])
    ]
    assert models[0] == models[1]
