"""Where forgetting can be seen: what is measured, and that the published page is made from the published figures."""

import json
from pathlib import Path

import pytest

from fedquit.client.data.datasets.digits import load_digits
from fedquit.documents import Document
from fedquit.simulations.compare.config.read_config import make_comparison, read_comparison
from fedquit.unlearning.evaluation.verdict import CONSISTENT, NO_EVIDENCE, NOT_CONSISTENT
from fedquit.unlearning.tensors.inference import logits
from tests.benchmarks.visible import visible_methods as visible
from tests.benchmarks.visible.hypotheses import HYPOTHESES
from tests.benchmarks.visible.memory_federation import Federation
from tests.benchmarks.visible.visible_page import draw_curves, make_page

TINY = {
    "title": "tiny",
    "targets": [0],
    "seeds": [0],
    "references": 5,
    "settings": {
        "dataset": "digits-wrong-labels", "model": "mlp", "clients": 3, "scheme": "column", "column": "client",
        "rounds": 2, "recover": "budget", "recover-rounds": 1,
    },
    "methods": {"fedquit": {}, "fedquit, auto": {"method": "fedquit", "method-settings": {"lr": "auto"}},
                "continue": {}, "projected-ascent": {}},
}  # fmt: skip


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visible, "CONFIGS", ("visible-wrong-labels",))
    monkeypatch.setattr(visible, "read_comparison", lambda _path: make_comparison(TINY))
    monkeypatch.setattr(visible, "HORIZON", (0, 1))
    monkeypatch.setattr(visible, "HORIZON_SEEDS", (0,))
    monkeypatch.setattr(visible, "DEVELOPMENT", (50,))


@pytest.mark.usefixtures("_tiny")
def test_every_method_and_hypothesis_is_measured_and_stands_on_the_page(tmp_path: Path) -> None:
    results = visible.make_results(tmp_path / "work")
    (one,), (tried,) = results["measured"], results["hypotheses"]
    assert set(one["rows"]) == set(TINY["methods"])  # type: ignore[call-overload]
    assert set(tried["rows"]) == set(HYPOTHESES)
    assert one["rows"]["continue"]["measures"]["forget_accuracy"]["value"] != 0
    shares = {row: found["bytes_share"] for row, found in one["rows"].items()}
    assert shares["continue"] == pytest.approx(1 / 3), "one round of recovery instead of three"
    assert shares["fedquit"] == shares["fedquit, auto"] < shares["projected-ascent"], "which is sent a second model"
    assert visible.make_results(tmp_path / "work") == results, "what was measured is not measured again"
    page = make_page(results)
    assert all(f"| {row} |" in page for row in [*one["rows"], *tried["rows"], "retrained"])
    draw_curves(results, tmp_path / "visible.png")
    assert (tmp_path / "visible.png").stat().st_size > 1000


@pytest.mark.usefixtures("_tiny")
def test_the_page_names_the_runs_that_it_lacks_and_no_others(tmp_path: Path) -> None:
    published = json.loads(visible.JSON.read_text(encoding="utf-8"))
    assert "not measured yet" not in make_page({**published, "missing": []})
    lacking = visible.make_results(tmp_path / "work", only_measured=True)["missing"]
    assert lacking == ["visible-wrong-labels-0", "hypotheses-50", "curves-visible-wrong-labels-0"]
    page = make_page({**published, "missing": lacking})
    assert f"These runs are not measured yet, and missing below: {', '.join(lacking)}." in page


def test_what_was_measured_before_is_judged_by_the_present_rule() -> None:
    def row(distance: float) -> Document:
        held = {"value": distance, "expected": 0.0, "distance": distance, "inside": "by an old rule"}
        return {"measures": {"forget_accuracy": held}, "outcome": "by an old rule"}

    kept = {"rows": {"continue": row(30.0), "worse": row(-6.0), "under": row(6.0)}}
    rows = visible.judged(kept, references=5)["rows"]
    assert [rows[name]["outcome"] for name in rows] == [NOT_CONSISTENT, CONSISTENT, NOT_CONSISTENT]
    assert [rows[name]["measures"]["forget_accuracy"]["inside"] for name in rows] == [False, True, False]
    blind = visible.judged({"rows": {"continue": row(0.5), "under": row(0.5)}}, references=5)["rows"]
    assert blind["under"]["outcome"] == NO_EVIDENCE


def test_auto_forgets_wrong_labels_that_the_papers_values_leave_memorised() -> None:
    comparison = read_comparison(Path("visible-wrong-labels"))
    federation, right = Federation(visible.settings_of(comparison)), load_digits().train
    trained = visible.train_all(federation, seed=7, references=0, recovery=0)
    wrong = federation.sets.forget.labels != right.labels[:300:3]  # client 0 has every third
    kept = {}
    for name in ("continue", "fedquit", "fedquit, auto"):
        recovered, _ = visible.carry_out(federation, trained, visible.rows_of(comparison)[name], recovery=5)
        said = logits(federation.loaded(recovered), federation.sets.forget, 100).argmax(dim=1)
        kept[name] = float((said == federation.sets.forget.labels)[wrong].float().mean())
    assert kept["continue"] > 0.3
    assert kept["fedquit"] > 0.3, "four steps are not enough"
    assert kept["fedquit, auto"] < 0.15


def test_the_published_page_is_made_from_the_published_figures() -> None:
    assert visible.PAGE.read_text(encoding="utf-8") == make_page(json.loads(visible.JSON.read_text(encoding="utf-8")))
