"""The calibration of the verdict: its counts, and that the published page is made from the published counts."""

import json
from pathlib import Path

import pytest

from fedquit.unlearning.evaluation.verdict import LEVEL, REFERENCES
from tests.benchmarks.calibration import verdict_calibration as verdict
from tests.benchmarks.calibration.verdict_federations import CHOSEN, FRESH, Federation, measure
from tests.benchmarks.calibration.verdict_page import (
    STATED,
    clustered,
    make_page,
    memorised_share,
    refused,
    share_of,
    wilson,
)

TINY = {"dataset": "digits", "model": "mlp", "clients": 3, "samples": 150, "rounds": 1, "alpha": 1.0, "holdout": 60}


@pytest.fixture
def tiny() -> Federation:
    return Federation("tiny", 6, {**TINY, "recover": "budget", "recover_rounds": 1, "guard": "adopt"})


def test_every_retrained_model_is_judged_by_others_and_each_stage_by_the_same(
    tmp_path: Path, tiny: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "SETS", {"chosen": [tiny], "fresh": [tiny]})
    monkeypatch.setattr(verdict, "REFERENCES", (5,))
    results = verdict.make_results(tmp_path)
    (row,) = results["fresh"]
    for count in ("5",):
        judged = row["by_references"][count]
        assert judged["trials"] == 6 * verdict.DRAWS
        assert all(sum(outcomes.values()) == judged["trials"] for outcomes in judged["now"].values())
        assert set(judged["now"]) == set(judged["before"]) == {"retrained", "original", "control", "recovered"}
        assert all(judged["lower"][kind] <= judged["even"][kind] for kind in judged["even"])
    assert row["by_references"]["5"]["now"]["control"]["consistent with retraining"] == 0
    assert row["by_references"]["5"]["smallest_gaps"]["position"] > 0
    page = make_page(results)
    assert "The\nother 1, with 6 retrained models, are **fresh**" in page
    assert "| tiny | 6 | " in page
    assert "Not measured yet" not in page
    unfinished = make_page({**results, "planned": {"chosen": 1, "fresh": 3}})
    assert "Not measured yet: 2 of 3 fresh federations.\n" in unfinished


def test_what_was_measured_is_not_measured_again(tmp_path: Path, tiny: Federation) -> None:
    (tmp_path / "tiny.json").write_text('{"name": "tiny"}')
    assert measure(tiny, tmp_path) == {"name": "tiny"}


def test_no_federation_shares_its_seed_or_its_split_with_another() -> None:
    for key in ("seed", "split_seed"):
        assert len({one.settings[key] for one in [*CHOSEN, *FRESH]}) == len(CHOSEN) + len(FRESH)


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    assert list(wilson(0, 10)) == pytest.approx([0, 0.2775], abs=1e-4)


def test_an_interval_over_clusters_is_wider_where_they_differ() -> None:
    alike, unlike = [(1, 20)] * 8, [(0, 20)] * 7 + [(8, 20)]
    assert clustered(alike) == pytest.approx((0.05, 0.05))
    assert clustered(unlike)[1] > wilson(8, 160)[1]
    assert clustered([(8, 160)]) == (0.0, 1.0), "one cluster says nothing of others"


def test_the_readme_has_the_measured_error_rates() -> None:
    rows = json.loads(verdict.JSON.read_text(encoding="utf-8"))["fresh"]
    said = " ".join(Path("README.md").read_text(encoding="utf-8").split())
    assert f"On {len(rows)} federations that had no part in choosing the test" in said
    assert f"with {sum(row['retrains'] for row in rows)} retrained models" in said
    for count, wanted in (("5", "refused {:.1f} % of the retrained ones (95 % interval {:.1f} to {:.1f})"),
                          ("10", "ten {:.1f} % ({:.1f} to {:.1f})")):  # fmt: skip
        assert wanted.format(*(100 * share for share in share_of(rows, count, refused("retrained")))) in said
    found, *_ = share_of(rows, "5", refused("control"))
    assert f"missed the control in {100 * (1 - found):.0f} %" in said


def test_the_docs_have_the_measured_error_rates() -> None:
    rows = json.loads(verdict.JSON.read_text(encoding="utf-8"))["fresh"]
    said = " ".join(Path("docs/report.md").read_text(encoding="utf-8").split())
    assert f"at most {100 * LEVEL:.1f} % of retrained models would be refused; that is `test.level`" in said
    found, *_ = share_of(rows, str(REFERENCES), refused("retrained"))
    assert f"states is at most {100 * STATED:.0f} %; on fresh federations {100 * found:.1f} % were refused" in said
    having = [row for row in rows if row["memorised"]["trials"]]
    wanted = "it refused {:.1f} % of retrained models ({:.1f} to {:.1f})"
    assert wanted.format(*(100 * share for share in memorised_share(having, "now", "retrained"))) in said


def test_the_published_page_is_made_from_the_published_counts() -> None:
    assert verdict.PAGE.read_text(encoding="utf-8") == make_page(json.loads(verdict.JSON.read_text(encoding="utf-8")))
