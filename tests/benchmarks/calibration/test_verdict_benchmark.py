"""The calibration of the verdict: its counts, and that the published page is made from the published counts."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.calibration import verdict_calibration as verdict
from tests.benchmarks.calibration.verdict_federations import FEDERATIONS, Federation, measure
from tests.benchmarks.calibration.verdict_page import make_page, wilson

TINY = {"dataset": "digits", "model": "mlp", "clients": 3, "samples": 150, "rounds": 1, "alpha": 1.0, "holdout": 60}


@pytest.fixture
def tiny() -> Federation:
    return Federation("tiny", 6, {**TINY, "recover": "budget", "recover_rounds": 1, "guard": "adopt"})


def test_every_retrained_model_is_judged_by_others_and_each_stage_by_the_same(
    tmp_path: Path, tiny: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "FEDERATIONS", [tiny])
    monkeypatch.setattr(verdict, "REFERENCES", (2, 5))
    results = verdict.make_results(tmp_path)
    (row,) = results["federations"]
    for count in ("2", "5"):
        judged = row["by_references"][count]
        assert all(sum(outcomes.values()) == 6 for outcomes in judged["now"].values())
        assert set(judged["now"]) == set(judged["before"]) == {"retrained", "original", "control", "recovered"}
    assert row["by_references"]["5"]["now"]["control"]["consistent with retraining"] == 0
    assert row["by_references"]["5"]["smallest_gaps"]["position"] > 0
    page = make_page(results)
    assert "Measured so far: 1 of 1 federations, with 6 retrained models" in page
    assert "| tiny | " in page


def test_what_was_measured_is_not_measured_again(tmp_path: Path, tiny: Federation) -> None:
    (tmp_path / "tiny.json").write_text('{"name": "tiny"}')
    assert measure(tiny, tmp_path) == {"name": "tiny"}


def test_no_federation_shares_its_seed_or_its_split_with_another() -> None:
    for key in ("seed", "split_seed"):
        assert len({one.settings[key] for one in FEDERATIONS}) == len(FEDERATIONS)


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    assert list(wilson(0, 10)) == pytest.approx([0, 0.2775], abs=1e-4)


def test_the_published_page_is_made_from_the_published_counts() -> None:
    assert verdict.PAGE.read_text(encoding="utf-8") == make_page(json.loads(verdict.JSON.read_text(encoding="utf-8")))
