"""A simulation's guard: the same decision as a deployment's, told in the report, and clear when it refuses."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from click.testing import CliRunner
from flwr.serverapp import ServerApp

from fedquit.documents import Document
from fedquit.errors import FedquitError
from fedquit.server.app import app
from fedquit.server.run.run_folder import read_state
from fedquit.settings import Settings
from fedquit.simulations.compare.cells.cell import RESULT, carry_out
from fedquit.simulations.compare.cells.plan_cells import plan
from fedquit.simulations.compare.config.comparison_config import Comparison, Row
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.simulations.simulate.command import simulate as command
from fedquit.simulations.simulate.run_report import refusal
from fedquit.simulations.simulate.run_simulation import run_simulation
from fedquit.simulations.simulate.summary import summarise
from fedquit.unlearning.methods.base import METHODS, Method, Traits
from fedquit.unlearning.session import Session
from fedquit.unlearning.tensors.convert import StateDict

SMALL = {
    "model": "mlp",
    "clients": 3,
    "alpha": 1.0,
    "rounds": 4,
    "recover": "budget",
    "recover-rounds": 1,
    "reference": "none",
}
BREAKS = {"method-settings": "lr=0.3"}
"""Steps of FedQUIT so large that they leave nothing of the model."""


def simulate(out: Path, given: Mapping[str, Any] | None = None, **how: Any) -> Document:
    return run_simulation({**SMALL, **(given or {})}, out=out, **{"workers": 1, **how})[1]


@dataclass(frozen=True, slots=True)
class Noise(Method):
    """A method of somebody's own that says nothing of its step: noise in place of the weights, or on top of them."""

    name: ClassVar[str] = "noise"
    traits: ClassVar[Traits] = Traits(frozenset({"client"}), "server", "nothing", False, True, "random weights")

    keep: float = 0.0
    scale: float = 1.0

    def serve(self, session: Session) -> StateDict:
        draw = torch.Generator().manual_seed(1)
        return {
            name: self.keep * value + self.scale * torch.randn(value.shape, generator=draw)
            for name, value in session.current.items()
        }


@pytest.fixture
def _theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, Noise.name, Noise)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that others start from."""
    path = tmp_path_factory.mktemp("base") / "run"
    simulate(path, only={"train"}, keep=["federaser"])
    return path


@pytest.fixture(scope="module")
def refused(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Document]:
    path = tmp_path_factory.mktemp("refused") / "run"
    return path, simulate(path, BREAKS, start=base)


def test_honest_fedquit_is_adopted_and_the_report_says_what_was_compared(base: Path, tmp_path: Path) -> None:
    document = simulate(tmp_path / "run", start=base)
    guard = document["requests"][0]["guard"]
    assert (guard["verdict"], guard["off"]) == ("adopt", "")
    told = " ".join(guard["findings"])
    for what in ("furthest weight", "length of the step", "a layer's step", "cosine to training", "accuracy"):
        assert what in told
    assert refusal(document) is None
    whole = simulate(tmp_path / "whole")
    assert whole["requests"][0]["guard"] == guard, "the same decision where training was not taken over"


def test_a_step_too_short_to_forget_is_warned_of_in_log_and_report(base: Path, tmp_path: Path) -> None:
    events: list[Mapping[str, Any]] = []
    weak = simulate(tmp_path / "weak", {"method-settings": "lr=1e-6"}, start=base, listener=events.append)
    guard = weak["requests"][0]["guard"]
    assert guard["moved"] < 0.05
    assert guard["warning"].startswith(f"the forget step is {guard['moved']:.2g} times as long as one device's step in")
    assert "lr=auto" in guard["warning"]
    assert [event["warning"] for event in events if event["event"] == "guard"] == [guard["warning"]]
    told = CliRunner().invoke(command, ["--resume", "--out", str(tmp_path / "weak")])
    assert f"Warning, forget: {guard['warning']}" in told.stdout
    given = {"method-settings": "lr=auto,temperature=4,near=0.3"}
    strong = simulate(tmp_path / "strong", given, start=base)["requests"][0]["guard"]
    assert strong["moved"] > 0.05
    assert (strong["verdict"], strong["warning"]) == ("adopt", ""), "the way out is one that the guard lets pass"


def test_a_refused_request_ends_the_run_and_says_so(refused: tuple[Path, Document]) -> None:
    document = refused[1]
    reason = refusal(document)
    assert reason is not None
    assert "request 1: the guard refused the model of fedquit: " in reason
    assert document["requests"][0]["guard"]["verdict"] == "refuse"
    assert document["ended"]["forget"]["goal_reached"] is False
    assert document["ended"]["forget"]["reason"].startswith("refused by the guard: length of the step")
    assert document["requests"][0]["phases"]["forget"]["bytes_up"] > 0, "what it cost counts"
    assert [name for name, stage in document["stages"].items() if stage] == ["original"]
    assert document["verdict"] is None


def test_a_refused_request_leaves_nothing_half_written(refused: tuple[Path, Document]) -> None:
    path, document = refused
    assert sorted(file.name for file in (path / "models").iterdir()) == ["original.safetensors"]
    assert json.loads((path / "report.json").read_text()) == document
    state = read_state(path)
    assert {file.stem for file in (path / "checkpoints").iterdir()} == state.named_models()
    assert state.current is None
    files = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.rglob("*.*") if file.suffix != ".png"}
    again = simulate(path, BREAKS, resume=True)
    assert again == document
    assert files == {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.usefixtures("_theirs")
@pytest.mark.parametrize("guard", ["adopt", "clip", "blend"])
def test_the_other_policies_continue_with_what_they_adopt(base: Path, tmp_path: Path, guard: str) -> None:
    given = {"method": "noise", "method-settings": "keep=1.0,scale=0.3", "guard": guard, "blend": 0.1}
    document = simulate(tmp_path / "run", given, start=base)
    decided = document["requests"][0]["guard"]
    assert decided["verdict"] == guard
    assert "length of the step" in decided["off"]
    assert document["stages"]["recovered"]


def test_the_command_prints_the_report_and_the_reason_and_exits_with_1(base: Path, tmp_path: Path) -> None:
    flags = [word for key, value in {**SMALL, **BREAKS}.items() for word in (f"--{key}", str(value))]
    told = CliRunner().invoke(
        command, [*flags, "--workers", "1", "--out", str(tmp_path / "run"), "--start", str(base), "--json"]
    )
    assert told.exit_code == 1
    assert json.loads(told.stdout)["requests"][0]["guard"]["verdict"] == "refuse"
    assert "fedquit: request 1: the guard refused the model of fedquit" in told.stderr
    shown = CliRunner().invoke(command, ["--resume", "--out", str(tmp_path / "run")])
    assert shown.exit_code == 1
    assert "Guard, forget: refuse: length of the step" in " ".join(shown.stdout.split())


def test_a_flwr_run_fails_where_the_guard_refuses(tmp_path: Path) -> None:
    settings = Settings.read({**SMALL, **BREAKS, "rounds": 2})
    config = {**settings.run_config(), "out": str(tmp_path / "run")}
    config.pop("clients")
    served: ServerApp = app
    refuses = pytest.raises(FedquitError, match="forget: refused by the guard")
    with InProcessGrid(settings.clients, config, workers=1) as grid, refuses:
        grid.serve(served)
    assert read_state(tmp_path / "run").refused == "forget"


@pytest.mark.usefixtures("_theirs")
def test_random_weights_from_a_method_of_ones_own_are_refused(base: Path, tmp_path: Path) -> None:
    document = simulate(tmp_path / "run", {"method": "noise"}, start=base)
    assert document["requests"][0]["guard"]["verdict"] == "refuse"


def test_a_comparison_adopts_by_default_and_with_a_guard_lists_refused_rows(tmp_path: Path) -> None:
    shared = {key: value for key, value in SMALL.items() if key not in ("reference", "recover", "recover-rounds")}
    row = Row("broken", "fedquit", {"method-settings": {"lr": 0.3}})
    plain = Comparison("c", "c", ((1,),), (0,), 1, 0, shared, (row,))
    assert plain.run_settings((1,), 0, {}).guard == "adopt"
    guarded = Comparison("c", "c", ((1,),), (0,), 1, 0, {**shared, "guard": "refuse"}, (row,))
    base, _, cell = plan(guarded, [(1,)])
    carry_out(base, tmp_path, 1)
    with pytest.raises(FedquitError, match="the guard refused the model of fedquit"):
        carry_out(cell, tmp_path, 1)
    assert not (tmp_path / cell.folder / RESULT).exists()


def test_a_summary_of_a_run_that_was_refused_names_it(refused: tuple[Path, Document]) -> None:
    with pytest.raises(FedquitError, match="forget 0 by fedquit, seed 0' ended without a recovered model"):
        summarise([refused[1]])
