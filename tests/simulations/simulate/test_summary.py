"""Several runs beside each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedquit.cli import fedquit
from fedquit.simulations.simulate.summary import BLOCKS, markdown, print_summary, summarise

ACCURACIES = ("forget_accuracy", "retain_accuracy", "test_accuracy", "worst_class_accuracy")


def report(share: float, **config: Any) -> dict[str, Any]:
    stage = dict.fromkeys(ACCURACIES, share)
    return {
        "config": {"forget": "0", "method": "fedquit", "seed": 0, **config},
        "samples": {"forget": 1180},
        "phases": {"recover": {"rounds": 12}},
        "ended": {"recover": {"goal_reached": True}},
        "verdict": {"outcome": "not consistent with retraining"},
        "stages": dict.fromkeys(("original", "unlearned", "recovered", "retrained"), stage),
        "ratios_to_retraining": {"bytes": 0.11, "seconds": 0.2},
    }


def test_a_summary_fits_a_terminal_of_eighty_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = summarise([report(0.5), report(1.0, seed=12, method="projected-ascent")])
    print_summary(found)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown, "nothing is cut off"
    for subject, _ in BLOCKS:
        assert subject in " ".join(shown.split())
    assert shown.count("75.0%") == 2 * 4, "the mean of every accuracy"
    assert "projected-ascent, seed 12" in " ".join(shown.split())
    assert markdown(found).splitlines()[-2].startswith("| **mean** | 1180 | 75.0% |")


def test_names_of_runs_have_only_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(summarise([report(0.5), report(0.5, forget="3")]))
    assert "seed" not in capsys.readouterr().out


def test_summary_has_a_form_for_people_for_markdown_and_for_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Read:
        document = report(0.5)

    read: Callable[[Path], Read] = lambda folder: Read()  # noqa: E731
    monkeypatch.setattr("fedquit.simulations.api.run_functions.read_report", read)
    starts = [
        CliRunner().invoke(fedquit, ["summary", str(tmp_path), *how]).output[:6]
        for how in ([], ["--markdown"], ["--json"])
    ]
    assert starts == ["forget", "| clie", '{\n "ru']


def test_one_run_has_no_standard_deviation(capsys: pytest.CaptureFixture[str]) -> None:
    found = summarise([report(0.5)])
    assert set(found["standard_deviation"].values()) == {None}
    print_summary(found)
    assert " 0.0%" not in capsys.readouterr().out
