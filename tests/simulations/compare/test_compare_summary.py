"""The report of a comparison is made again from its summary, byte for byte, the published ones too."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fedquit.errors import InputError
from fedquit.simulations.api.comparison_result import read_results
from fedquit.simulations.compare.command import compare as command
from fedquit.simulations.compare.config.read_config import make_comparison
from fedquit.simulations.compare.report.report_files import read_results_file, rewrite_report, write_report
from fedquit.simulations.compare.results.results_document import make_results, summary_of
from fedquit.unlearning.evaluation import verdict

PUBLISHED = sorted(Path(__file__).parents[3].glob("docs/results/compare/*/summary.json"))


def called(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.mark.parametrize("summary", PUBLISHED, ids=lambda path: path.parent.name)
def test_published_reports_are_made_from_their_summaries(summary: Path, tmp_path: Path) -> None:
    done = called(summary, "--report", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    for name in ("report.md", "summary.json"):
        assert (tmp_path / "out" / name).read_bytes() == summary.with_name(name).read_bytes()
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made - {"report.html"} == {path.name for path in summary.parent.iterdir()}, "the page repeats the figures"


def test_there_are_published_reports_and_none_keeps_the_single_runs() -> None:
    assert len(PUBLISHED) == 5
    for summary in PUBLISHED:
        assert not summary.with_name("compare.json").exists()
        assert summary.stat().st_size < 30_000


def failed_comparison(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Write the report of a comparison in which everything failed; return its folder and its results."""
    comparison = make_comparison(
        {
            "title": "Tiny",
            "targets": [[1], [0, 2]],
            "seeds": [3],
            "budget": 2,
            "settings": {"model": "mlp", "lr": 0.2},
            "methods": {
                "slow": {"method": "fedquit", "method-settings": {"lr": 0.001}},
                "negate": {"recover-rounds": 30},
            },
        },
        "tiny.toml",
    )
    document = make_results(comparison, [(1,), (0, 2)], [], tmp_path, {})
    (tmp_path / "first").mkdir()
    write_report(tmp_path / "first", comparison, summary_of(document))
    return tmp_path / "first", document


def test_a_summary_keeps_what_the_file_says_and_what_it_leaves_to_defaults(tmp_path: Path) -> None:
    folder, document = failed_comparison(tmp_path)
    comparison, summary = read_results_file(folder / "summary.json")
    assert comparison.document() == document["config"]
    assert comparison.file() == summary["file"]
    report = (folder / "report.md").read_text()
    assert "--recover-rounds 2 " in report, "the budget's, as the file says nothing"
    assert "--method negate --guard adopt --budget 2" in report, "30 is the default, and the file says so"
    assert "```sh\nfedquit compare tiny.toml\n```" in report
    rewrite_report(folder / "summary.json", out=tmp_path / "again")
    assert (tmp_path / "again" / "report.md").read_text() == report


def test_the_results_of_every_run_make_the_same_report_as_their_summary(tmp_path: Path) -> None:
    folder, document = failed_comparison(tmp_path)
    (tmp_path / "compare.json").write_text(json.dumps(document))
    rewrite_report(tmp_path / "compare.json", out=tmp_path / "again")
    for name in ("report.md", "summary.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_an_existing_report_is_replaced_only_with_the_flag(tmp_path: Path) -> None:
    folder, _ = failed_comparison(tmp_path)
    report = (folder / "report.md").read_bytes()
    (folder / "report.md").write_text("my notes")
    refused = called(folder / "summary.json", "--report")
    assert isinstance(refused.exception, InputError)
    assert "replace it with --overwrite" in str(refused.exception)
    assert (folder / "report.md").read_text() == "my notes"
    assert called(folder / "summary.json", "--report", "--overwrite").exit_code == 0
    assert (folder / "report.md").read_bytes() == report


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "is not the summary of a comparison"),
        ('{"rows": []}', "is not the summary of a comparison"),
        ({"schema_version": 1}, "schema_version must be 2, got 1"),
        ({"file": {"targets": [0]}}, "seeds: must be a list"),
        ({"rows": [{"name": "x"}]}, "is not the summary of a comparison"),
        ({"rows": 3}, "is not the summary of a comparison"),
        ({"targets": []}, "is not the summary of a comparison"),
    ],
    ids=str,
)
def test_a_file_that_is_not_a_summary_is_refused_in_one_line(tmp_path: Path, content: Any, said: str) -> None:
    folder, _ = failed_comparison(tmp_path)
    file = folder / "summary.json"
    if isinstance(content, dict):
        content = json.dumps({**json.loads(file.read_text()), **content})
    file.write_text(content)
    done = called(file, "--report", "--out", tmp_path / "again")
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)
    assert "\n" not in str(done.exception)


def test_a_report_says_whether_its_verdicts_are_by_the_present_rule(tmp_path: Path) -> None:
    folder, _ = failed_comparison(tmp_path)
    file = folder / "summary.json"
    made = json.loads(file.read_text())
    made["rows"][0]["verdicts"] = {"no evidence": 2}

    def said(**changed: Any) -> set[str]:
        file.write_text(json.dumps({**made, **changed}))
        assert called(file, "--report", "--overwrite").exit_code == 0
        texts = [(folder / name).read_text() for name in ("report.md", "report.html")] + [
            read_results(folder).note_of_rule
        ]
        found = [re.search("reached by (.*) rule, not by this version", text) for text in texts]
        return {each.group(1) if each else "" for each in found}

    assert said() == {""}
    other = {**made["rule"], "under_forgetting": 0.05}
    assert said(rule=other) == {"another"}
    del made["rule"]
    assert said() == {"an earlier"}
    made["rows"][0]["verdicts"] = {}
    assert said() == {""}, "there is none"


def test_the_rule_of_a_summary_is_every_number_that_a_verdict_goes_by() -> None:
    numbers = {
        name for name in vars(verdict) if name.isupper() and isinstance(getattr(verdict, name), int | float | dict)
    }
    derived = {"LEVEL", "POWER"}  # from the others; of what would have been found, not of what is
    assert {name.lower() for name in numbers - derived} >= {"references", "under_forgetting", "other_side", "weights"}
    assert len(verdict.present_rule()) == len(numbers - derived) + 1, "and its name"


@pytest.mark.parametrize("more", [["--plan"], ["--resume"], ["--json"], ["--jobs", "2"]], ids=str)
def test_a_report_made_again_takes_no_flags_of_runs(tmp_path: Path, more: list[str]) -> None:
    done = called(tmp_path / "summary.json", "--report", *more)
    assert isinstance(done.exception, InputError)
    assert "--report" in str(done.exception)
