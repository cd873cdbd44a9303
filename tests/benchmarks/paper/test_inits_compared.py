"""Initial weights: both measured on the same split and seed, and a page made from the figures."""

import json
from pathlib import Path
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


def test_the_page_of_initial_weights_is_made_from_its_published_figures() -> None:
    document = json.loads(inits_compared.JSON.read_text(encoding="utf-8"))
    assert inits_compared.PAGE.read_text(encoding="utf-8") == inits_compared.make_page(document)
