"""The same two apps on Flower's own runtime: the same models, bit for bit, as on the in-process engine."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.processes import BIN, ROOT, own_flower, started_with
from tests.harness.waiting import MOST, until

pytestmark = pytest.mark.timeout(MOST)
SMALL = {"model": "mlp", "alpha": 1.0, "rounds": 2, "recover": "budget", "recover-rounds": 1, "references": 1}
FLAGS = [part for key, value in {**SMALL, "clients": 3}.items() for part in (f"--{key}", str(value))]


def simulate(out: Path, *flags: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "fedquit", "simulate", *FLAGS, *flags, "--out", str(out), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def models(document: dict[str, Any]) -> dict[str, str]:
    stages = {stage: measured["model_sha256"] for stage, measured in document["stages"].items() if measured}
    [matched] = document["matched"]
    return {**stages, "matched": matched["model_sha256"]}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return models(simulate(tmp_path_factory.mktemp("inprocess") / "run", "--workers", "1"))


def test_flowers_simulation_engine_gives_the_same_models(expected: dict[str, str], tmp_path: Path) -> None:
    assert models(simulate(tmp_path / "run", "--engine", "flower")) == expected


def test_flwr_run_at_the_root_gives_the_same_models(expected: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = [f'{key}="{value}"' if isinstance(value, str) else f"{key}={value}" for key, value in SMALL.items()]
    with own_flower(tmp_path / "flower") as environment:
        ran = subprocess.run(
            [
                str(BIN / "flwr"), "run", str(ROOT), "--federation-config", "num-supernodes=3",
                "--run-config", f'{" ".join(config)} out="{out}"', "--stream",
            ],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=MOST, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
        shown = dict(re.findall(r"(\w+) model: sha256 ([0-9a-f]{64})", ran.stdout + ran.stderr))
    assert shown == expected, ran.stdout + ran.stderr
    report = subprocess.run(
        [sys.executable, "-m", "fedquit", "report", str(out), "--json"], capture_output=True, text=True, check=True
    )
    assert models(json.loads(report.stdout)) == expected
    until(lambda: not started_with(tmp_path / "flower"), "end of Flower's processes", every=0.2)
