"""A run from Python: the command's own function, with types, figures and tables, and nothing said unasked."""

import inspect
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import torch

import fedquit
from fedquit import InputError, Phase, Ratios, Request, RunResult, Settings, Stage, Verdict, read_report, simulate
from fedquit.simulations.api.run_result import FIGURES, FRAMES
from tests.conftest import Run

TINY: dict[str, Any] = {
    "model": "mlp",
    "clients": 3,
    "samples": 300,
    "alpha": 1.0,
    "rounds": 2,
    "recover": "budget",
    "recover_rounds": 1,
    "references": 5,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return simulate(TINY, out=tmp_path_factory.mktemp("api") / "run", workers=1, forget=0)


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if "seconds" not in key}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def test_the_command_and_the_api_give_the_same_report(finished: RunResult, run: Run, tmp_path: Path) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    code, out, _ = run("simulate", *flags, "--workers", 1, "--out", tmp_path / "run", "--json")
    assert code == 0
    assert timeless(json.loads(out)) == timeless(finished.document)


def test_the_commands_call_what_python_imports(
    finished: RunResult, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedquit.simulations.api import audit_result, comparison_result, run_functions

    called: list[str] = []

    def stand_in(name: str) -> Any:
        def raises(*_: object, **__: object) -> None:
            called.append(name)
            raise InputError(name)

        return raises

    for module, name in (
        (run_functions, "simulate"), (run_functions, "read_report"), (comparison_result, "compare"),
        (audit_result, "audit"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, stand_in(name))
    assert run("simulate", "--out", tmp_path / "other")[0] == 4
    assert run("report", finished.folder)[0] == 4
    assert run("compare", "digits", "--out", tmp_path / "other")[0] == 4
    assert run("audit", finished.model("recovered"), "--run", finished.folder)[0] == 4
    assert called == ["simulate", "read_report", "compare", "audit"]


def test_the_typed_result_has_every_key_of_the_report(finished: RunResult) -> None:
    document = finished.document
    parts = {
        Stage: document["stages"]["recovered"],
        Phase: document["phases"]["recover"],
        Ratios: document["ratios_to_retraining"],
        Request: document["requests"][0],
        Verdict: document["verdict"],
    }
    for kind, part in parts.items():
        assert set(part) <= {field.name for field in fields(kind)}
    stage = finished.stages["recovered"]
    assert {name: getattr(stage, name) for name in document["stages"]["recovered"]} == document["stages"]["recovered"]
    assert finished.phases["train"].rounds == 2
    assert finished.ratios is not None
    assert finished.ratios.bytes == document["ratios_to_retraining"]["bytes"]
    assert finished.verdict is not None
    assert finished.verdict.outcome == document["verdict"]["outcome"]
    assert len(finished.references) == 5
    assert finished.requests[0].clients == [0]


def test_the_documents_name_every_key_of_the_report(finished: RunResult) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "report.md").read_text(encoding="utf-8")
    rows = "\n".join(line for line in text.splitlines() if line.startswith("| "))
    named = {part for name in re.findall(r"`([^`]+)`", rows) for part in re.split(r"[.*]", name)}
    document = finished.document
    stage, phase, request = document["stages"]["recovered"], document["phases"]["train"], document["requests"][0]
    keys = {*document, *document["stages"], *stage, *phase, *request, *document["ratios_to_retraining"]}
    keys |= {*document["verdict"], *document["verdict"]["test"], *document["verdict"]["measures"]["position"]}
    keys |= {*document["memorised"], *document["memorised"]["memorised"], *document["memorised"]["others"]}
    assert keys - named == {"schema_version"}


def test_the_report_judges_memorised_samples_apart_from_the_others(finished: RunResult) -> None:
    document = finished.document
    found, samples = document["memorised"], document["samples"]["forget"]
    assert found["memorised"]["samples"] + found["others"]["samples"] == samples
    scores = [
        torch.tensor([float(each) for each in model["scores"].split()]).sigmoid()
        for model in (document["stages"]["original"], document["stages"]["recovered"], *document["matched"])
    ]
    without = torch.stack(scores[2:]).mean(dim=0)
    group = scores[0] - without >= found["threshold"]
    assert int(group.sum()) == found["memorised"]["samples"]
    assert float(scores[1][~group].mean()) == pytest.approx(found["others"]["candidate"], abs=1e-4)
    assert (found["left"] is None) == (not bool(group.any()))


def test_a_finished_run_is_read_again_from_its_folder(finished: RunResult) -> None:
    again = read_report(finished.folder)
    assert again == finished
    (finished.folder / "report.json").unlink()
    assert read_report(str(finished.folder)).document == finished.document


@pytest.mark.parametrize("what", FIGURES)
def test_a_figure_is_returned_and_leaves_pyplot_as_it_was(finished: RunResult, what: str) -> None:
    import matplotlib.pyplot as plt

    before = mpl.rcParams["backend"]
    figure = finished.plot(what)
    assert figure.axes[0].has_data()
    assert (mpl.rcParams["backend"], plt.get_fignums()) == (before, [])


def test_no_module_of_ours_changes_how_matplotlib_shows_figures() -> None:
    root = Path(fedquit.__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in sorted((root / "simulations").rglob("*.py"))]
    drawing = [text for text in texts if "matplotlib" in text]
    assert len(drawing) > 3
    assert [text for text in drawing if re.search(r"\bpyplot\b(?! is not)|\b(mpl|matplotlib)\.use\(", text)] == []


@pytest.mark.parametrize("of", FRAMES)
def test_a_table_has_the_numbers_of_the_report(finished: RunResult, of: str) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = finished.frame(of)
    if of == "rounds":
        assert list(frame["phase"][:4]) == ["train", "train", "forget", "recover"]
        assert frame["bytes_up"][:2].sum() == finished.phases["train"].bytes_up
    elif of == "phases":
        assert frame.loc["retrain", "rounds"] == 2
    else:
        assert list(frame.index) == list(finished.stages)
        assert frame.loc["recovered", "forget_loss"] == finished.stages["recovered"].forget_loss


def test_nothing_is_printed_where_standard_error_is_no_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[str] = []
    less = {**TINY, "references": 1, "rounds": 1}
    quiet = simulate(less, out=tmp_path / "quiet", workers=1)
    assert capfd.readouterr() == ("", "")
    again = simulate(out=quiet.folder, resume=True, progress=lambda event: events.append(event["event"]))
    assert again.document == quiet.document
    assert {"opened", "finished"} <= set(events)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"clientz": 3}, "unknown key 'clientz' (did you mean 'clients'?)"),
        ({"config": "nowhere.toml"}, "nowhere.toml"),
        ({"config": "fashion-mnits"}, "did you mean 'fashion-mnist'?"),
        ({"engine": "ray"}, "unknown engine 'ray'; known: inprocess, flower"),
        ({"resume": True, "overwrite": True}, "exclude each other"),
        ({"track": ["tensorbord"]}, "did you mean 'tensorboard'?"),
        ({"forget": 9, "clients": 3}, "forget"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_a_mistake_is_an_exception_of_one_line(given: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        simulate(**given, out=tmp_path / "run")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_name_that_a_result_does_not_have_is_told_with_those_it_has(finished: RunResult) -> None:
    with pytest.raises(InputError, match=r"unknown figure 'costs' \(did you mean 'cost'\?\); known: accuracy, labels"):
        finished.plot("costs")
    with pytest.raises(InputError, match="unknown table 'round'"):
        finished.frame("round")
    with pytest.raises(InputError, match=r"unknown model 'retraind' \(did you mean 'retrained'\?\)"):
        finished.model("retraind")


def test_a_report_of_an_earlier_version_says_what_it_lacks() -> None:
    old = RunResult(Path("run"), {"phases": {"train": {"rounds": 2}}})
    with pytest.raises(InputError, match="does not say 'bytes_down'"):
        _ = old.phases


def test_no_setting_has_the_name_of_another_argument() -> None:
    own = {name for name, each in inspect.signature(simulate).parameters.items() if each.kind != each.VAR_KEYWORD}
    assert own & set(Settings.model_fields) == set()


def test_every_name_of_the_api_is_there() -> None:
    assert all(getattr(fedquit, name) is not None for name in fedquit.__all__)
    assert set(fedquit.__all__) == set(fedquit._HOME_OF)
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        _ = fedquit.simulat
