"""A comparison in MLflow: a run with its rows, in it a run for each cell; one that is resumed is told once."""

from pathlib import Path
from typing import Any

import pytest

from fedquit.simulations.compare.comparison import run_comparison
from fedquit.simulations.compare.track_comparison import slug
from fedquit.trackers.tracking import tracked_ids
from tests.simulations.compare.test_compare_run import SETTINGS, silence, write

SMALL = f"""
title = "Small"
targets = [1]
seeds = [0]
references = 1
budget = 1
[settings]
{SETTINGS}
[methods.fedquit]
"""


def test_a_comparison_is_read_back_from_mlflow_with_its_cells_and_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    config, out, said = write(tmp_path, SMALL), tmp_path / "out", list[tuple[str, str]]()

    def compare(**how: Any) -> dict[str, Any]:
        return run_comparison(
            config, out=out, jobs=2, progress=silence, trackers=("mlflow",), say=lambda *why: said.append(why), **how
        )[1]

    document = compare()
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("fedquit").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    cells = {str(path.parent.relative_to(out)) for path in out.rglob("cell.json")}
    assert set(runs) == cells | {document["title"]}
    main = runs[document["title"]]
    assert main.info.run_id == tracked_ids(out)["mlflow"]
    assert {runs[cell].data.tags["fedquit.group"] for cell in cells} == {document["title"]}
    row = document["rows"][0]
    mean = row["measures"]["test_accuracy"]["mean"]
    assert main.data.metrics[f"{slug(row['name'])}/test_accuracy"] == pytest.approx(mean)
    assert any("train/holdout_accuracy" in runs[cell].data.metrics for cell in cells)
    assert {each.path for each in client.list_artifacts(main.info.run_id)} >= {"report.md", "summary.json"}
    compare(resume=True)
    assert len(client.search_runs([experiment])) == len(runs)
    assert said == []
