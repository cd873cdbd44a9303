"""What `--stack` came to is noted, so that a run can be repeated and resumed bit for bit in any version."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedquit.errors import InputError
from fedquit.server.run.run_folder import read_computed
from fedquit.simulations.engine import stack as stack_module
from fedquit.simulations.simulate.run_simulation import run_simulation

SMALL: dict[str, Any] = {
    "clients": 9,
    "samples": 200,
    "model": "mlp",
    "rounds": 2,
    "method": "continue",
    "recover": "budget",
    "recover-rounds": 1,
    "reference": "none",
}


def run(folder: Path, stack: str = "off", **changed: Any) -> tuple[Path, Any, list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []
    path, report = run_simulation(
        {**SMALL, **changed}, out=folder, workers=1, stack=stack, listener=lambda event: told.append(dict(event))
    )
    return path, report, told


def test_a_run_notes_how_many_clients_auto_comes_to_and_is_repeated_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "AUTO", 4)
    path, report, _ = run(tmp_path / "auto", "auto")
    assert (report["versions"]["stack"], report["versions"]["clients_at_once"]) == ("auto", "4")
    assert "one_by_one" not in report["versions"]
    assert read_computed(path) == {"device": "cpu", "precision": "fp32", "stack": "auto", "clients_at_once": "4"}
    again = run(tmp_path / "again", report["versions"]["clients_at_once"])[1]
    assert again["stages"] == report["stages"], "bit for bit"
    assert "clients_at_once" not in run(tmp_path / "off")[1]["versions"]


def test_a_run_that_auto_trains_one_by_one_notes_the_reason(tmp_path: Path) -> None:
    path, report, told = run(tmp_path / "run", "auto", compress_up="fp16")
    (why,) = [event["reason"] for event in told if event["event"] == "stack"]
    assert why == "models are compressed, so devices may start from different ones"
    noted = {"stack": "auto", "clients_at_once": "1", "one_by_one": why}
    assert read_computed(path) == {"device": "cpu", "precision": "fp32", **noted}
    assert {name: report["versions"][name] for name in noted} == noted


class HaltError(Exception):
    """The user stops the run."""


def test_a_resumed_run_keeps_the_number_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole", "4")[1]

    def halt(event: Mapping[str, Any]) -> None:
        if event["event"] == "round":
            raise HaltError

    monkeypatch.setattr(stack_module, "AUTO", 4)
    with pytest.raises(HaltError):
        run_simulation(SMALL, out=tmp_path / "run", workers=1, stack="auto", listener=halt)
    monkeypatch.setattr(stack_module, "AUTO", 2)  # as in another version
    report = run_simulation({}, out=tmp_path / "run", resume=True, workers=1, stack="auto")[1]
    assert report["versions"]["clients_at_once"] == "4"
    assert report["stages"] == whole["stages"]


def test_a_run_from_before_the_number_was_noted_claims_none(tmp_path: Path) -> None:
    path = run(tmp_path / "run", "auto")[0]
    noted = json.loads((path / "computed.json").read_text())
    (path / "computed.json").write_text(json.dumps({name: noted[name] for name in ("device", "precision", "stack")}))
    report = run_simulation({}, out=path, resume=True, workers=1, stack="auto")[1]
    assert "clients_at_once" not in report["versions"]


@pytest.mark.parametrize(
    "noted", ['{"clients_at_once": "many"}', '{"clients_at_once": 4}', "[]", "{", '{"stack": "0"}']
)
def test_a_note_that_cannot_be_read_gives_an_error_of_one_line(noted: str, tmp_path: Path) -> None:
    path = run(tmp_path / "run", "auto")[0]
    (path / "computed.json").write_text(noted)
    with pytest.raises(InputError, match=r"computed.json|began with --stack 0") as failed:
        run_simulation({}, out=path, resume=True, workers=1, stack="auto")
    assert "\n" not in str(failed.value)
