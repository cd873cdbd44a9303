"""The paper's scale: what is measured, and that pages are made from the published figures."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.benchmarks.paper import inits_compared

SMALL: dict[str, Any] = {"clients": 3, "rounds": 2, "holdout": 60, "guard": "adopt"}


def test_both_inits_are_measured_on_the_same_split_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inits_compared, "SETTINGS", {"tiny": {"dataset": "digits", "model": "mlp", "samples": 150}})
    monkeypatch.setattr(inits_compared, "FIXED", {**SMALL, "rounds": 10, "references": 1})
    monkeypatch.setattr(inits_compared, "SEEDS", (0, 1))
    found = inits_compared.make_results(tmp_path)
    assert found["curves"]["tiny"]["default"] != found["curves"]["tiny"]["glorot"]
    splits = [(tmp_path / f"0-{init}-0" / "partition.json").read_bytes() for init in inits_compared.INITS]
    assert splits[0] == splits[1]
    assert "| tiny |" in inits_compared.make_page(found)


@pytest.mark.parametrize("benchmark", [inits_compared])
def test_a_page_of_the_papers_scale_is_made_from_its_published_figures(benchmark: ModuleType) -> None:
    document = json.loads(benchmark.JSON.read_text(encoding="utf-8"))
    assert benchmark.PAGE.read_text(encoding="utf-8") == benchmark.make_page(document)
