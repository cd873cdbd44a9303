"""The numbers of a comparison, by hand: gaps, costs, means and spreads, Pareto fronts; and how they are shown."""

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedquit.documents import Document
from fedquit.simulations.compare.cells.comparison_folder import first_difference
from fedquit.simulations.compare.config.read_config import make_comparison
from fedquit.simulations.compare.report.columns import COLUMNS
from fedquit.simulations.compare.report.comparison_figures import draw_all, gap_against_cost
from fedquit.simulations.compare.report.comparison_report import make_report
from fedquit.simulations.compare.report.comparison_table import markdown, print_results
from fedquit.simulations.compare.report.figure_labels import overlap, place
from fedquit.simulations.compare.results.cell_measures import measure_references, measure_row
from fedquit.simulations.compare.results.results_document import REFERENCE, make_results
from fedquit.simulations.compare.results.row_statistics import aggregate, pareto_front, points, summary


def stage(forget: float, retain: float = 0.9, test: float = 0.8, members: float = 0.5, **more: Any) -> Document:
    return {
        "forget_accuracy": forget,
        "retain_accuracy": retain,
        "test_accuracy": test,
        "worst_class_accuracy": 0.4,
        "worst_client_accuracy": 0.6,
        "forget_loss": 1 - forget,
        "attacks": {"modified_entropy": {"member_rate": members}},
        "model_sha256": f"{forget}",
        **more,
    }


def cost(num_bytes: int, seconds: float, rounds: int = 1) -> Document:
    return {"bytes_down": num_bytes, "bytes_up": num_bytes, "device_seconds": seconds, "rounds": rounds}


def references(*models: Document) -> Document:
    return {"references": list(models), "trained_on": {}, "phases": {"retrain": cost(500, 20.0, 10)}}


def run(recovered: Document, at_budget: Document | None = None, budget: int = 0, **phases: Document | None) -> Document:
    ends = {"recover": {"reason": "", "goal_reached": True}}
    costs = {"forget": cost(10, 1.0), "recover": cost(90, 3.0, 3), "later": None, **phases}
    return {
        "config": {"budget": budget},
        "rounds_since_training": 0,
        "samples": {"forget": 100, "retain": 900, "holdout": 50, "test": 400},
        "stages": {"original": stage(0.95), "unlearned": stage(0.1), "recovered": recovered, "later": at_budget},
        "phases": costs,
        "ended": ends,
    }


def test_gaps_are_signed_and_to_the_mean_of_the_references() -> None:
    found = measure_row(run(stage(0.75, 0.85, 0.9, 0.6)), references(stage(0.5), stage(0.7, members=0.3)))
    assert found["forget_gap"] == pytest.approx(0.75 - 0.6)
    assert found["retain_gap"] == pytest.approx(0.85 - 0.9)
    assert found["test_gap"] == pytest.approx(0.9 - 0.8)
    assert found["membership_gap"] == pytest.approx(0.6 - 0.4)
    assert found["tow"] == pytest.approx(0.85 * 0.95 * 0.9)
    assert found["reference_spread"] == pytest.approx(0.2)


def test_a_terminal_of_eighty_columns_shows_every_number_and_verdict_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = ("forget_gap", "position", "test_accuracy", "bytes_share")
    measures = {name: {"mean": 0.5, "sd": 0.125, "n": 4} for name in names}
    row = {"name": "fedquit, lr=auto", "cells": 4, "measures": measures, "failed": [], "over_budget": 0}
    row["verdicts"] = {"consistent with retraining": 1, "no evidence": 2, "not consistent": 1}
    reference = {**row, "name": REFERENCE, "verdicts": {}}
    print_results({"title": "t", "rows": [row], "reference": reference, "pareto_front": {}, "failures": []})
    shown = capsys.readouterr().out
    assert "Verdicts, fedquit, lr=auto: 1 of 4 consistent, 2 no evidence\n" in shown
    line = next(line for line in shown.splitlines() if line.startswith("fedquit, lr=auto"))
    assert line.split("  ")[-1].strip() == "50.0 ± 12.5"
    assert "…" not in shown


def test_what_remains_memorised_is_a_column_apart_from_the_verdict() -> None:
    def scored(forget: float, *scores: float) -> Document:
        return stage(forget, scores=" ".join(map(str, scores)))

    one = run(scored(0.6, 0.0, 3.0))
    one["stages"]["original"] = scored(0.9, 6.0, 3.0)
    retrained = references(*(scored(0.5 + 0.01 * number, -6.0 + 0.1 * number, 3.0) for number in range(5)))
    found = measure_row(one, retrained)
    assert found["memorised"]["memorised"]["samples"] == 1
    assert found["memorised_left"] == pytest.approx(0.5, abs=0.01)
    assert "memorised" not in found["verdict"]["measures"]
    row = aggregate("x", [{"measures": found, "failed": None}])
    assert row["memorised"] == {"tested": 1, "inside": 0}
    assert "| memorised, left |" in markdown([row])
    assert "(0 of 1 inside)" in markdown([row])
    assert "memorised, left" not in markdown([{**row, "memorised": None}]), "nothing there to be left"


def test_costs_are_shares_of_one_retraining_and_leave_out_what_came_later() -> None:
    found = measure_row(run(stage(0.75), stage(0.7), 5, later=cost(400, 9.0, 4)), references(stage(0.5), stage(0.7)))
    assert found["bytes_share"] == pytest.approx((2 * 10 + 2 * 90) / (2 * 500))
    assert found["seconds_share"] == pytest.approx((1 + 3) / 20)
    assert found["recovery_rounds"] == 3


def test_the_budget_counts_forgetting_recovery_and_later_rounds_in_bytes() -> None:
    within = run(stage(0.75), stage(0.7), 5, later=cost(50, 9.0, 2))
    assert measure_row(within, references(stage(0.5)))["budget_used"] == pytest.approx((10 + 90 + 50) / (5 * 30))
    beyond = measure_row(run(stage(0.75), stage(0.7), 2), references(stage(0.5)))
    assert beyond["budget_used"] == pytest.approx(100 / 60)
    assert measure_row(run(stage(0.75)), references(stage(0.5)))["budget_used"] is None
    cells = [{"measures": found, "failed": None} for found in (beyond, measure_row(within, references(stage(0.5))))]
    assert aggregate("x", cells)["over_budget"] == 1


def test_a_method_without_messages_costs_its_recovery() -> None:
    found = measure_row(run(stage(0.75), forget=cost(0, 0.0)), references(stage(0.5)))
    assert found["bytes_share"] == pytest.approx(180 / 1000)
    assert measure_row(run(stage(0.75), forget=None), references(stage(0.5)))["bytes_share"] == found["bytes_share"]


def test_what_resurfaces_is_forget_accuracy_at_the_budget_minus_after_recovery() -> None:
    found = measure_row(run(stage(0.55), stage(0.7), 5, later=cost(1, 1.0)), references(stage(0.6), stage(0.6)))
    assert found["resurfaced"] == pytest.approx(0.15)
    assert found["later_forget_gap"] == pytest.approx(0.1)
    assert found["forget_accuracy"] == {"original": 0.95, "unlearned": 0.1, "recovered": 0.55, "later": 0.7}
    none = measure_row(run(stage(0.55)), references(stage(0.6)))
    assert (none["resurfaced"], none["later_forget_gap"], none["forget_accuracy"]["later"]) == (None, None, None)


FIVE = [stage(forget) for forget in (0.58, 0.60, 0.61, 0.59, 0.62)]


def test_the_verdict_is_that_of_the_report_on_the_recovered_model() -> None:
    near = measure_row(run(stage(0.6)), references(*FIVE))["verdict"]
    assert near["outcome"] == "consistent with retraining"
    far = measure_row(run(stage(0.9)), references(*FIVE))["verdict"]
    assert far["outcome"] == "not consistent"
    few = measure_row(run(stage(0.6)), references(*FIVE[:4]))["verdict"]
    assert (few["outcome"], few["reason"]) == ("undetermined", "needs 5 references, has 4; references = 5")


def test_a_row_is_judged_by_references_and_a_control_of_as_many_rounds() -> None:
    later = {f"retrained{'-' * bool(n)}{n or ''}+2": stage(0.7 + n / 100) for n in range(5)}
    trained_on = {**later, "original+2": stage(0.94)}
    row = {**run(stage(0.72)), "rounds_since_training": 2}
    judged = measure_row(row, {**references(*FIVE), "trained_on": trained_on})["verdict"]
    assert judged["outcome"] == "consistent with retraining"
    assert judged["measures"]["forget_accuracy"]["expected"] == pytest.approx(0.72)
    assert judged["control"]["forget_accuracy"]["value"] == 0.94
    more = measure_row({**row, "rounds_since_training": 3}, {**references(*FIVE), "trained_on": trained_on})["verdict"]
    assert more["outcome"] == "undetermined"
    assert more["reason"].endswith("they were trained on for fewer than 3 rounds")


def test_gaps_between_retrained_models_are_pairwise_and_do_not_cancel() -> None:
    found = measure_references(references(stage(0.5), stage(0.6), stage(0.8)))
    assert found["forget_gap"] == pytest.approx((abs(0.5 - 0.7) + abs(0.6 - 0.65) + abs(0.8 - 0.55)) / 3)
    assert found["reference_spread"] == pytest.approx(0.3)
    assert found["forget_accuracy"]["retrained"] == pytest.approx(1.9 / 3)
    alone = measure_references(references(stage(0.5)))
    assert (alone["forget_gap"], alone["tow"], alone["reference_spread"]) == (None, None, None)
    assert alone["test_accuracy"] == 0.8


def test_mean_and_sample_standard_deviation_by_hand() -> None:
    assert summary([0.1, 0.2, 0.6]) == {
        "mean": pytest.approx(0.3),
        "sd": pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2)),
        "n": 3,
    }
    assert summary([0.4]) == {"mean": 0.4, "sd": None, "n": 1}
    assert summary([None, 0.4]) == {"mean": 0.4, "sd": None, "n": 1}
    assert summary([None]) is None


def cell(forget: float, failed: str | None = None) -> Document:
    measured = None if failed else measure_row(run(stage(forget)), references(stage(0.5), stage(0.7)))
    return {"measures": measured, "failed": failed}


def test_gaps_are_averaged_by_size_and_a_failed_cell_counts_as_failed_only() -> None:
    row = aggregate("x", [cell(0.5), cell(0.7), cell(0, "its process died")])
    assert row["measures"]["forget_gap"] == {"mean": pytest.approx(0.1), "sd": pytest.approx(0.0), "n": 2}
    assert row["cells"] == 3
    assert row["failed"] == ["its process died"]
    assert row["verdicts"] == {"undetermined": 2}


def test_the_pareto_front_by_hand() -> None:
    found = {"a": (0.1, 0.9), "b": (0.2, 0.5), "c": (0.3, 0.6), "d": (0.9, 0.1), "e": (0.9, 0.2), "twin": (0.2, 0.5)}
    assert pareto_front(found) == ["a", "b", "twin", "d"]
    assert pareto_front({}) == []


SHARES = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.4])  # few, so that there are ties


@given(st.dictionaries(st.text(min_size=1), st.tuples(SHARES, SHARES), min_size=1, max_size=12))
def test_a_front_holds_just_those_that_no_other_beats(found: dict[str, tuple[float, float]]) -> None:
    front = pareto_front(found)
    for name, (x, y) in found.items():
        better = [p for p in found.values() if p[0] <= x and p[1] <= y and (p[0] < x or p[1] < y)]
        assert (name in front) == (not better)
    assert front, "the best of something is always on it"
    ordered = [found[name] for name in front]
    assert ordered == sorted(ordered)
    assert [y for _, y in ordered] == sorted((y for _, y in ordered), reverse=True)


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 500)), min_size=1, max_size=12))
def test_names_of_twelve_points_never_overlap_wherever_the_points_are(at: list[tuple[int, int]]) -> None:
    size = (130.0, 14.0)
    corners = place(at, [size] * len(at), (0, 0, 900, 500))
    boxes = [(x, y, x + size[0], y + size[1]) for x, y in corners]
    assert not any(overlap(one, other) for one, other in combinations(boxes, 2))
    assert not any(overlap(box, (x - 1, y - 1, x + 1, y + 1)) for box in boxes for x, y in at)
    assert all(min(x0, y0) >= 0 and x1 <= 900 and y1 <= 500 for x0, y0, x1, y1 in boxes)


def rows_of(number: int) -> list[Document]:
    return [
        {**aggregate(f"row $ | {i}", [cell(0.55 + i / 100), cell(0.65 + i / 100)]), "method": "negate"}
        for i in range(number)
    ]


def results(rows: list[Document]) -> Document:
    measured = measure_references(references(stage(0.5), stage(0.7)))
    return {
        "rows": rows,
        "reference": aggregate(REFERENCE, [{"measures": measured, "failed": None}]),
        "targets": [[0]],
        "pareto_front": {"bytes": [row["name"] for row in rows[:1]], "seconds": []},
        "failures": [],
        "versions": {"torch": "2"},
    }


def test_twelve_names_in_a_figure_lie_apart_and_inside(tmp_path: Path) -> None:
    document = results(rows_of(12))
    figure = gap_against_cost(document["rows"], document["reference"], "bytes_share", "bytes")
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
    assert len(boxes) == 12
    assert not any(overlap((a.x0, a.y0, a.x1, a.y1), (b.x0, b.y0, b.x1, b.y1)) for a, b in combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    drawn = draw_all(tmp_path, document)
    assert set(drawn) == {"gap-against-bytes.png", "gap-against-seconds.png", "worst-groups.png"}
    for name in drawn:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_row_that_failed_everywhere_is_shown_as_failed_and_drawn_nowhere(tmp_path: Path) -> None:
    failed = {**aggregate("broken", [cell(0, "its process died")]), "method": "negate"}
    assert markdown([*rows_of(1), failed]).splitlines()[-1].endswith("| 1 failed |")
    assert set(points([*rows_of(1), failed], "bytes_share")) == {"row $ | 0"}
    document = results([failed])
    assert draw_all(tmp_path, document) == {}
    document["failures"] = ["seed-0/target-0/broken: its process died"]
    comparison = make_comparison({"targets": [0], "seeds": [0], "methods": {"broken": {"method": "negate"}}})
    assert "- seed-0/target-0/broken: its process died" in make_report(comparison, document, {})


def test_the_table_is_whole_and_its_numbers_are_the_rows() -> None:
    table = markdown([aggregate("a | b", [cell(0.55), cell(0.75)])]).splitlines()
    widths = {line.replace(r"\|", "").count("|") for line in table}
    assert len(widths) == 1
    heads, values = ([part.strip() for part in line.replace(r"\|", "").split("|")] for line in (table[0], table[2]))
    shown = dict(zip(heads, values, strict=True))
    assert shown["forget gap"] == "10.0 ± 7.1"
    assert shown["bytes"] == "20.0 ± 0.0"
    assert shown["verdict"] == "0 of 2 consistent, 2 undetermined"


def test_the_report_states_what_was_compared_and_how_to_repeat_each_run() -> None:
    methods = {"row $ | 0": {"method": "negate"}}
    comparison = make_comparison(
        {"title": "A <b>", "targets": [0, [1, 2]], "seeds": [3], "budget": 2, "methods": methods, "references": 4},
        "a.toml",
    )
    document = {**results(rows_of(1)), "targets": [[0], [1, 2]]}
    text = make_report(comparison, document, {"gap.png": "A gap"})
    assert text.startswith("# A \\<b\\>\n")
    assert "client 0; clients 1 and 2 at once" in text
    assert "4 models retrained" in text
    assert "Budget: 2 ordinary rounds." in text
    assert "![A gap](gap.png)" in text
    assert "On the Pareto front of forget gap against bytes: row $ \\| 0." in text
    assert "```sh\nfedquit compare a.toml\n```" in text
    flags = "--guard adopt --recover-rounds 2 --budget 2 --references 4 --seed 3 --split-seed 0 --model-seed 0"
    assert f"fedquit simulate --forget 0 --method negate {flags}\n" in text
    assert f"fedquit simulate --forget 1,2 --method negate {flags}\n" in text
    for column in COLUMNS:
        assert (f"**{column.heading}**" in text) == (f"| {column.heading} |" in text)


def test_a_cell_that_did_not_run_is_reported_as_failed(tmp_path: Path) -> None:
    from fedquit.simulations.compare.cells.plan_cells import plan

    comparison = make_comparison({"targets": [0], "seeds": [0], "methods": {"negate": {}}})
    cells = plan(comparison, [(0,)])
    document = make_results(comparison, [(0,)], cells, tmp_path, {"seed-0/target-0/references": "no\nroom"})
    assert document["failed"] == 2
    assert document["references"][0]["failed"] == "no room"
    assert document["failures"] == [
        "seed-0/target-0/references: no room",
        "seed-0/target-0/negate: it was not carried out",
    ]
    assert document["cells"][0]["failed"] == "it was not carried out"
    assert document["cells"][0]["measures"] is None


def test_where_two_documents_differ_first_is_found() -> None:
    one = {"a": {"b": [1]}, "c": 2}
    assert first_difference(one, {"a": {"b": [1]}, "c": 2}) is None
    assert first_difference(one, {"a": {"b": [2]}, "c": 3}) == ("a.b", "[1]", "[2]")
    assert first_difference(one, {**one, "d": 1}) == ("d", "nothing", "1")
