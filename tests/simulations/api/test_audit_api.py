"""An audit and a comparison from Python."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from fedquit import InputError, Stage, audit, read_results, simulate
from fedquit.simulations.api.comparison_result import FIGURES
from fedquit.simulations.audit.command import print_audit
from fedquit.simulations.compare.report.comparison_table import print_results

ROOT = Path(__file__).resolve().parents[3]
SMALL: dict[str, Any] = {"model": "mlp", "clients": 3, "samples": 300, "alpha": 1.0, "rounds": 1}
RECOVERY: dict[str, Any] = {"recover": "budget", "recover_rounds": 1}


def test_a_model_is_audited_against_the_retrained_models_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = simulate(SMALL, **RECOVERY, references=5, out=tmp_path / "run", workers=1)
    found = audit(run.model("recovered"), run, relearn_steps=1)
    assert found.verdict.outcome == run.document["verdict"]["outcome"]
    assert found.verdict.measures == run.document["verdict"]["measures"]
    assert [each.model_sha256 for each in found.references] == [
        each["model_sha256"] for each in run.document["matched"]
    ]
    assert set(found.document["model"]) - {"file"} <= {field.name for field in fields(Stage)}
    assert found.model.forget_accuracy == run.stages["recovered"].forget_accuracy
    assert set(found.not_measured) == {"u_lira", "completeness.from_shadows"}
    assert found.plot().axes[0].get_title() == f"Verdict: {found.verdict.outcome}"
    monkeypatch.setenv("COLUMNS", "80")
    print_audit(found.document)
    table = capsys.readouterr().out.partition("Accuracy gaps")[0]
    assert len(table.splitlines()) > 12
    assert "…" not in table
    assert max(len(line.rstrip()) for line in table.splitlines()[1:]) <= 80
    with pytest.raises(InputError, match="cannot read the model"):
        audit(tmp_path / "none.safetensors", run.folder)


def test_a_run_without_retrained_models_is_told_to_name_some(tmp_path: Path) -> None:
    run = simulate(SMALL, **RECOVERY, reference="none", out=tmp_path / "run", workers=1)
    with pytest.raises(InputError, match="give at least one --reference FILE"):
        audit(run.model("recovered"), run)
    with pytest.raises(InputError, match="no retrained model to compare costs with"):
        run.plot("cost")
    with pytest.raises(InputError, match="no measure to draw"):
        run.plot("verdict")


@pytest.mark.parametrize("what", FIGURES)
def test_published_results_are_read_and_drawn_again(what: str) -> None:
    found = read_results(ROOT / "docs" / "results" / "compare" / "samples-10")
    assert len(found.rows) > 5
    assert found.plot(what).axes[0].has_data()
    with pytest.raises(InputError, match=r"read the compare\.json"):
        found.frame("cells")


def test_a_table_of_many_methods_fits_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_results(read_results(ROOT / "docs" / "results" / "compare" / "samples-10").document)
    table = capsys.readouterr().out.partition("On the Pareto front")[0].splitlines()
    assert len(table) > 7
    assert [line for line in table if len(line.rstrip()) > 80 or "…" in line] == []
