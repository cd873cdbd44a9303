"""Every example in docs/examples runs as it stands, on tiny settings, and does what it is there to show."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.processes import ROOT, own_flower
from tests.harness.waiting import MOST

pytestmark = pytest.mark.timeout(MOST)
EXAMPLES = ROOT / "docs" / "examples"
TINY = ["--clients", "3", "--rounds", "2", "--recover", "budget", "--recover-rounds", "1", "--reference", "none"]
SHOWS = {
    "own_data.py": ("dataset", "own_data:load"),
    "own_model.py": ("model", "own_model:build"),
    "own_method.py": ("method", "fresh-head"),
    "own_objective.py": ("objective", "smoothed"),
}


def test_every_example_is_run_by_a_test() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SHOWS, "flower_app.py"}
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({path.name})" in text for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", SHOWS)
def test_an_example_of_something_of_ones_own_runs_and_uses_it(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *TINY, "--out", str(tmp_path / "run"), "--json"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    key, value = SHOWS[name]
    assert report["config"][key] == value
    assert report["stages"]["recovered"]["model_sha256"] != report["stages"]["original"]["model_sha256"]


def test_flowers_simulation_runs_an_app_that_gained_forgetting(tmp_path: Path) -> None:
    with own_flower(tmp_path / "flower") as environment:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "flower_app.py")],
            cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "outcomes: {6: 'forgotten'}" in said
    shown = dict(re.findall(r"after round (\d+): .*client-2 ([\d.]+)", said))
    assert float(shown["6"]) < float(shown["5"]) - 0.05
    others = dict(re.findall(r"after round (\d+): client-0 ([\d.]+)", said))
    assert float(others["8"]) > float(others["5"]) - 0.05
