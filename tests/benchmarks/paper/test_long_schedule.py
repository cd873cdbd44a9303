"""The paper's schedule: a ratio that follows from rounds, runs that are not repeated, a page made from the figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.paper import long_schedule
from tests.benchmarks.paper.long_schedule import Cell

SMALL: dict[str, Any] = {"clients": 3, "rounds": 2, "holdout": 60, "guard": "adopt"}


def test_bytes_follow_from_rounds_and_a_finished_run_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**SMALL, "recover": "budget", "recover-rounds": 2, "references": 1}
    monkeypatch.setattr(long_schedule, "CONFIG", config)
    monkeypatch.setattr(long_schedule, "CELLS", (Cell("mlp", 150, "iid", 0), Cell("mlp", 150, "dirichlet-0.3", 0)))
    first = long_schedule.make_results(tmp_path)
    for run in first["runs"]:
        assert run["recovery"] == 2
        assert run["fewer"] == pytest.approx(2 * 2 / (1 + 2 * 2), rel=0.001), "two clients, two rounds; one pass more"
    monkeypatch.setattr(long_schedule, "simulate", None)
    assert long_schedule.make_results(tmp_path) == first
    page = long_schedule.make_page({**first, "not_run": ["cnn-iid-150-0"]})
    assert "Not measured yet: cnn-iid-150-0 (model, split, samples, seed)." in page
    assert "| mlp, 150, dirichlet 0.3 | 1 | 2 | 0.8 |" in page


def test_the_page_of_the_papers_schedule_is_made_from_its_published_figures() -> None:
    document = json.loads(long_schedule.JSON.read_text(encoding="utf-8"))
    assert long_schedule.PAGE.read_text(encoding="utf-8") == long_schedule.make_page(document)
