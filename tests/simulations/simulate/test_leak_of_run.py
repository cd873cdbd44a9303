"""`--leak`: what the last request of a run told, in the report of the run and in an audit of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedquit.simulations.audit.command import audit
from fedquit.simulations.simulate.command import simulate

GIVEN = ("--model", "mlp", "--clients", "3", "--alpha", "1", "--rounds", "3", "--recover", "budget",
         "--recover-rounds", "1", "--references", "1", "--granularity", "sample",
         "--forget-share", "0.004")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("runs") / "run"
    told = [*GIVEN, "--out", str(out), "--workers", "1", "--leak", "--json"]
    done = CliRunner().invoke(simulate, told, catch_exceptions=False)
    return out, json.loads(done.stdout)


def test_the_report_says_what_a_request_told_whom(run: tuple[Path, dict[str, Any]]) -> None:
    found = run[1]["leak"]
    assert set(found) == {"server", "device", "control", "limits"}
    assert found["server"] == found["device"]  # the devices are sent what the asking device handed back
    assert found["server"]["classes"]["exact"] is True
    assert found["control"]["classes"]["exact"] is False
    assert found["server"]["reconstruction"]["nearest_was_forgotten"] > found["server"]["reconstruction"]["by_chance"]


def test_an_audit_says_the_same_in_words_and_only_when_asked(run: tuple[Path, dict[str, Any]]) -> None:
    out, report = run
    models = out / "models"
    told = [str(models / "recovered.safetensors"), "--run", str(out), "--reference",
            str(models / "retrained.safetensors")]  # fmt: skip
    said = CliRunner().invoke(audit, [*told, "--leak", "--json"], catch_exceptions=False)
    assert json.loads(said.stdout)["leak"] == report["leak"]
    shown = CliRunner().invoke(audit, [*told, "--leak"], catch_exceptions=False).stdout
    assert "Leak. The server" in shown
    assert "classes read off exactly" in shown
    assert json.loads(CliRunner().invoke(audit, [*told, "--json"], catch_exceptions=False).stdout)["leak"] is None
