"""Paired differences between rows: the same requests and seeds, and how sure a mean difference is."""

from itertools import product
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedquit.documents import Document
from fedquit.simulations.compare.config.read_config import make_comparison
from fedquit.simulations.compare.report.comparison_report import make_report
from fedquit.simulations.compare.results.cell_measures import measure_row
from fedquit.simulations.compare.results.paired_differences import p_value, paired_differences
from tests.simulations.compare.test_compare_measures import FIVE, references, results, rows_of, run, stage


def cell(row: str, seed: int, gap: float, position: float | None = None) -> dict[str, Any]:
    return {"row": row, "target": [0], "seed": seed, "measures": {"forget_gap": gap, "position": position}}


def test_rows_are_compared_on_the_requests_that_both_have_and_by_size() -> None:
    cells = [cell("a", 0, -0.2, 0.5), cell("a", 1, 0.3, 0.7), cell("b", 0, 0.1, 1.2), cell("b", 1, -0.1, 0.9)]
    alone, failed = cell("b", 2, 0.9, 0.0), {"row": "a", "target": [0], "seed": 2, "measures": None}
    found = paired_differences(["a", "b"], [*cells, alone, failed])
    assert found["first"] == "a"
    assert found["rows"]["b"]["forget_gap"]["mean"] == pytest.approx(((0.1 - 0.2) + (0.1 - 0.3)) / 2)
    assert found["rows"]["b"]["position"]["mean"] == pytest.approx(((0.2 - 0.5) + (0.1 - 0.3)) / 2)
    assert found["rows"]["b"]["forget_gap"]["n"] == 2
    assert found["rows"]["b"]["test_gap"] is None, "nobody measured it"


def test_the_p_value_is_scipys_and_near_that_of_all_permutations() -> None:
    from scipy.stats import ttest_1samp

    differences = [0.4, 1.1, -0.3, 0.9, 1.4, 0.2, 0.8, 0.7, -0.1, 1.0]
    assert p_value(differences) == pytest.approx(ttest_1samp(differences, 0.0).pvalue)
    signs = product((1, -1), repeat=len(differences))
    sums = [abs(sum(sign * one for sign, one in zip(each, differences, strict=True))) for each in signs]
    exact = fmean(total >= abs(sum(differences)) - 1e-9 for total in sums)
    assert p_value(differences) == pytest.approx(exact, abs=0.02), "the slow exact test, which assumes no normality"


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9))
def test_a_p_value_is_a_share_and_blind_to_the_sign(differences: list[float]) -> None:
    found = p_value(differences)
    assert found is not None
    assert 0 <= found <= 1
    assert found == pytest.approx(p_value([-one for one in differences]) or 0.0)


def test_a_row_says_how_far_it_is_in_units_of_the_noise_of_retraining() -> None:
    found = measure_row(run(stage(0.9)), references(*FIVE))
    noise = stdev(model["forget_accuracy"] for model in FIVE) * (1 + 1 / 5) ** 0.5
    assert found["forget_accuracy_distance"] == pytest.approx((0.9 - 0.6) / noise)
    assert found["position"] is None, "no scores were measured"


def test_the_report_shows_paired_differences_and_earlier_results_without_them() -> None:
    comparison = make_comparison({"targets": [0], "seeds": [0], "methods": {"row": {"method": "negate"}}})
    row: Document = {"forget_gap": {"mean": -0.0512, "p": 0.0312, "n": 5}, "position": None, "test_gap": None}
    document = {**results(rows_of(1)), "paired": {"first": "fedquit", "test": "a test", "rows": {"x|y": row}}}
    text = make_report(comparison, document, {})
    assert "than **fedquit** each row ends" in text
    assert "| x\\|y | -5.1 (p = 0.031) |  |  |" in text
    assert "than **" not in make_report(comparison, results(rows_of(1)), {})
