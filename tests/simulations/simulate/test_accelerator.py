"""Every objective, method, measure and codec computes where the machine's choice says, and gives the same there.

The other device is a stand-in that computes as the processor does, and refuses tensors of both places in one operation:
the models of a run must be the same, bit for bit.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from fedquit.client.compression.codecs import CODECS
from fedquit.client.device import device
from fedquit.client.objectives import OBJECTIVES
from fedquit.client.training import sgd
from fedquit.processes.chosen_device import DEVICE, PRECISION
from fedquit.simulations.simulate.run_simulation import run_simulation
from fedquit.unlearning.methods.base import METHODS
from fedquit.unlearning.tensors import accelerator
from tests.harness.stand_in_device import THERE, StandInTensor, stand_in_device

TINY: dict[str, Any] = {
    "model": "mlp", "clients": 3, "alpha": 1, "samples": 60, "rounds": 1, "recover": "budget", "recover-rounds": 1,
    "reference": "none", "guard": "adopt",
}  # fmt: skip
OBJECTIVE: Mapping[str, Mapping[str, Any]] = {"fedkd": {"mentee": "mlp"}}
METHOD: Mapping[str, Mapping[str, Any]] = {
    "mode": {"rounds": 1, "guidance_rounds": 1}, "orthogonal": {"rounds": 1}, "federaser": {"interval": 1},
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_cut_samples() -> Iterator[None]:
    device._cut.cache_clear()
    yield
    device._cut.cache_clear()


def run(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    _, document = run_simulation({**TINY, **settings}, workers=1, out=folder)
    return document


def here_and_there(tmp_path: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    here = run(tmp_path / "here", settings)
    device._cut.cache_clear()
    with stand_in_device(), pytest.MonkeyPatch.context() as patch:
        for module in (accelerator, sgd):
            patch.setattr(module, "accelerator", lambda: THERE)
        before = StandInTensor.operations
        there = run(tmp_path / "there", settings)
        assert StandInTensor.operations > before + 100
    return here["stages"], there["stages"]


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_trains_the_same_model_on_another_device(name: str, tmp_path: Path) -> None:
    here, there = here_and_there(tmp_path, {"objective": name, "method": "continue", **OBJECTIVE.get(name, {})})
    assert here == there


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_forgets_the_same_on_another_device(name: str, tmp_path: Path) -> None:
    here, there = here_and_there(tmp_path, {"method": name, "method-settings": METHOD.get(name, {})})
    assert here == there


@pytest.mark.parametrize("name", sorted(CODECS))
def test_every_codec_compresses_the_same_on_another_device(name: str, tmp_path: Path) -> None:
    here, there = here_and_there(tmp_path, {"method": "continue", "compress-up": name})
    assert here == there


@pytest.mark.parametrize("model", ["cnn", "resnet18"])
def test_models_with_convolutions_and_statistics_are_the_same_there(model: str, tmp_path: Path) -> None:
    here, there = here_and_there(tmp_path, {"model": model, "samples": 40, "rounds": 1})
    assert here == there


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_training_in_a_lower_precision_learns_about_the_same(precision: str, tmp_path: Path) -> None:
    settings = {"samples": 900, "rounds": 6, "lr": 0.1, "method": "continue"}
    full = run(tmp_path / "full", settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PRECISION, precision)
        lower = run(tmp_path / "lower", settings)
    assert (full["versions"]["precision"], lower["versions"]["precision"]) == ("fp32", precision)
    one, other = (report["stages"]["original"] for report in (full, lower))
    assert one["model_sha256"] != other["model_sha256"]
    assert other["retain_accuracy"] == pytest.approx(one["retain_accuracy"], abs=0.05)
    assert one["retain_accuracy"] > 0.5


def test_workers_compute_as_chosen_in_a_second_run_of_one_process_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for workers in (2, 1):
        for precision in ("fp32", "bf16"):
            monkeypatch.setenv(PRECISION, precision)
            settings = {**TINY, "method": "continue"}
            _, report = run_simulation(settings, workers=workers, out=tmp_path / f"{workers}-{precision}")
            found[workers, precision] = report["stages"]["original"]["model_sha256"]
    assert found[2, "fp32"] == found[1, "fp32"] != found[1, "bf16"] == found[2, "bf16"]


@pytest.mark.parametrize("command", ["simulate", "join"])
@pytest.mark.parametrize(("flag", "name"), [("--device", "tpu"), ("--precision", "fp8")])
def test_an_unknown_device_or_precision_is_refused_in_one_line(command: str, flag: str, name: str) -> None:
    arguments = [command, *(["kit"] if command == "join" else []), flag, name]
    done = subprocess.run([sys.executable, "-m", "fedquit", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"'{name}' is unknown; use " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "fedquit", "simulate", "--device", "cuda", "--out", str(out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "device 'cuda' is not here: PyTorch finds 0 of kind 'cuda'; use cpu, or auto" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_workers_take_several_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE, "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = []
    for worker in range(3):
        monkeypatch.setattr(accelerator, "_worker", lambda worker=worker: worker)
        found.append(str(accelerator.accelerator()))
    assert found == ["cuda:0", "cuda:1", "cuda:0"]


def test_the_stand_in_refuses_tensors_of_both_devices() -> None:
    with stand_in_device():
        there = torch.ones(2, device=THERE)
        assert isinstance(there, StandInTensor)
        with pytest.raises(RuntimeError, match="both devices"):
            there + torch.ones(2)
        assert torch.equal((there * 2 + torch.tensor(1.0)).cpu(), torch.full((2,), 3.0))
