"""A run's folder as an earlier version wrote it: today's commands resume it, start from it, read it and audit it."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fedquit.server.run.run_folder import read_state
from tests.conftest import Run
from tests.fixtures import run_3d3f489
from tests.fixtures.run_3d3f489.make import SETTINGS

FIXTURE = Path(run_3d3f489.__file__).parent
ENDS: dict[str, str] = json.loads((FIXTURE / "ends.json").read_text(encoding="utf-8"))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with the run `finished` and the run `killed`."""
    with tarfile.open(FIXTURE / "runs.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def models(folder: Path) -> dict[str, str]:
    return dict(read_state(folder).models)


def document(done: tuple[int, str, str]) -> Any:
    code, out, err = done
    assert code == 0, err
    return json.loads(out)


def test_a_run_killed_under_an_earlier_version_ends_with_its_model(runs: Path, run: Run) -> None:
    code, _, err = run("simulate", "--resume", "--out", runs / "killed", "--workers", 1)
    assert code == 0, err
    assert models(runs / "killed") == ENDS


def test_a_run_starts_from_the_training_of_an_earlier_version(runs: Path, run: Run) -> None:
    told = [word for name, value in SETTINGS.items() for word in (f"--{name}", value)]
    how = (
        "--guard",
        "adopt",
        "--start",
        runs / "finished",
        "--out",
        runs / "b",
        "--workers",
        1,
        "--json",
    )  # it had none
    again = document(run("simulate", *told, *how))
    assert models(runs / "b").items() >= ENDS.items(), "the same request on the same training"
    assert again["stages"]["recovered"]["model_sha256"] == ENDS["recovered"]


def test_a_finished_run_of_an_earlier_version_is_not_run_again(runs: Path, run: Run) -> None:
    before = (runs / "finished" / "costs.csv").read_bytes()
    document(run("simulate", "--resume", "--out", runs / "finished", "--workers", 1, "--json"))
    assert models(runs / "finished") == ENDS
    assert (runs / "finished" / "costs.csv").read_bytes() == before


def test_report_summary_costs_and_plan_read_a_run_of_an_earlier_version(runs: Path, run: Run) -> None:
    folder = runs / "finished"
    written = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert document(run("report", folder, "--json")) == written
    assert run("report", folder)[0] == 0
    assert run("summary", folder, folder)[0] == 0
    costs = document(run("costs", folder, "--json"))
    assert costs["phases"]["train"]["rounds"] == 2
    assert run("costs", folder)[0] == 0
    assert document(run("plan", folder, "--forget", 1, "--json"))


def test_a_model_of_an_earlier_version_can_be_audited(runs: Path, run: Run) -> None:
    folder = runs / "finished"
    model, reference = (folder / "models" / f"{stage}.safetensors" for stage in ("recovered", "retrained"))
    audited = document(run("audit", model, "--run", folder, "--reference", reference, "--json"))
    assert audited
