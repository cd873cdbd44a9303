"""A method from another package, for real: found by its entry point, served, and carried out in worker processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedquit.errors import FedquitError, InputError
from fedquit.simulations.simulate.run_simulation import run_simulation

SMALL = {"model": "mlp", "clients": 3, "samples": 60, "scheme": "iid", "rounds": 1, "recover": "budget",
         "recover-rounds": 1, "reference": "none"}  # fmt: skip
FLAGS = [part for key, value in SMALL.items() for part in (f"--{key}", str(value))]

HEAD = """
import multiprocessing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from fedquit.errors import InputError

from fedquit.unlearning.tensors.arithmetic import StateDict
from fedquit.unlearning.methods.base import Method, Traits
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.session import Session, weighted_mean

TRAITS = Traits(frozenset({"client"}), "federation", "nothing", True, True, "scale, then ask the others")
"""

HALVE = '''
@dataclass(frozen=True, slots=True)
class Halve(Method):
    """Forgotten clients scale their model, and the others add a constant: two steps, each with a number sent along."""

    name: ClassVar[str] = "their-name"
    traits: ClassVar[Traits] = TRAITS
    factor: float = 0.5
    trace: str = ""

    def serve(self, session: Session) -> StateDict:
        state = weighted_mean(session.run("forget", session.forgotten, session.current), session.forgotten)
        answers = list(session.run("forget", session.remaining, state, step="add", extra=session.initial, amount=0.25))
        return weighted_mean(answers)

    def on_device(self, model, samples, *, seed, step="forget", config=None, extra=None):
        with open(self.trace, "a") as file:
            amount = (config or {}).get("amount", 0)
            place = "worker" if multiprocessing.parent_process() else "server"
            file.write(f"{self.name} {place} {step} {len(samples)} {amount} {extra is not None}\\n")
        for parameter in model.parameters():
            parameter.data.mul_(self.factor) if step == "forget" else parameter.data.add_(config["amount"])
        return [1.5]
'''

THEIRS = "class Theirs(Method):\n name, traits = 'their-name', TRAITS\n"
SERVE = f"{THEIRS} def serve(self, session):\n  "
BROKEN: dict[str, tuple[str, type[FedquitError], str]] = {  # what is wrong: code, the error, what it says
    "import": (
        "raise RuntimeError('their bug')",
        FedquitError,
        r"'their-name' \(theirs:Theirs\) cannot be loaded.*bug",
    ),
    "no such class": ("", FedquitError, "'their-name' .* cannot be loaded: .*Theirs"),
    "no method": ("class Theirs: pass", FedquitError, "'their-name' .* is no method: derive it from Method"),
    "no traits": ("class Theirs(Method): pass", FedquitError, "'their-name' .* derive it from Method, with `traits`"),
    "refuses": (f"{SERVE}raise InputError('their-name: needs 9 clients')", InputError, "^their-name: needs 9 clients$"),
    "device fails": (
        f"{THEIRS} def forget(self, model, samples, *, seed):\n  raise KeyError('their bug')",
        FedquitError,
        r"client\(s\) 0 .*client 0: KeyError: 'their bug'",
    ),
    "server fails": (f"{SERVE}return 1 / 0", FedquitError, "'their-name'.*ZeroDivisionError"),
    "no model": (f"{SERVE}return None", FedquitError, "'their-name'"),
    "half a model": (f"{SERVE}return dict(list(session.current.items())[1:])", FedquitError, "'their-name'"),
    "NaN": (f"{SERVE}return {{k: v * float('nan') for k, v in session.current.items()}}", FedquitError, "'their-name'"),
}


def install(folder: Path, code: str, target: str = "theirs:Theirs") -> dict[str, str]:
    """Put a package into a folder as an installer would, and return an environment that finds it."""
    (folder / "theirs.py").write_text(HEAD + code)
    info = folder / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[fedquit.methods]\ntheir-name = {target}\n")
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def fedquit(env: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedquit", *args, "--json"], env=env, capture_output=True, text=True, check=False
    )


def test_a_method_of_another_package_is_listed_and_runs_in_workers(tmp_path: Path) -> None:
    env = install(tmp_path, HALVE, "theirs:Halve")
    listed: list[dict[str, Any]] = json.loads(fedquit(env, "methods").stdout)
    (theirs,) = [method for method in listed if method["name"] == "their-name"]
    assert theirs["summary"] == "scale, then ask the others"
    assert {"fedquit", "retrain"} < {method["name"] for method in listed}

    trace, out = tmp_path / "trace", tmp_path / "run"
    settings = ("--method", "their-name", "--method-settings", f"factor=0.25,trace={trace}", "--guard", "adopt")
    ran = fedquit(env, "simulate", *FLAGS, *settings, "--workers", "2", "--out", str(out))
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["phases"]["forget"]["rounds"] == 2
    done = [line.split() for line in trace.read_text().splitlines()]
    assert sorted(row[2:] for row in done) == [
        ["add", "20", "0.25", "True"], ["add", "20", "0.25", "True"], ["forget", "20", "0", "False"]
    ]  # fmt: skip
    assert {row[1] for row in done} == {"worker"}, "the server's own process carried out nothing"
    original, unlearned = (load_file(out / "models" / f"{name}.safetensors") for name in ("original", "unlearned"))
    for name, value in original.items():
        torch.testing.assert_close(unlearned[name], 0.25 * value + 0.25)


def test_a_method_of_another_package_needs_no_estimate_to_be_planned_or_served(tmp_path: Path) -> None:
    env, out = install(tmp_path, HALVE, "theirs:Halve"), tmp_path / "run"
    settings = ("--method", "their-name", "--method-settings", f"trace={tmp_path / 'trace'}", "--guard", "adopt")
    assert "exchanges" not in HALVE
    assert fedquit(env, "simulate", *FLAGS, *settings, "--workers", "1", "--out", str(out)).returncode == 0
    plan = [sys.executable, "-m", "fedquit", "plan", str(out), "--forget", "1"]
    shown = subprocess.run(plan, env=env, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^ *their-name +not estimated *$", shown, re.MULTILINE), shown
    assert "their-name: not estimated: the method has no Method.exchanges, which is optional" in shown
    methods = json.loads(fedquit(env, "plan", str(out), "--forget", "1").stdout)["requests"][0]["methods"]
    assert not methods["their-name"]["known"]
    assert methods["fedquit"]["known"]


def test_a_broken_method_is_reported_in_one_line_without_a_traceback(tmp_path: Path) -> None:
    env = install(tmp_path, BROKEN["server fails"][0])
    ran = fedquit(env, "simulate", *FLAGS, "--method", "their-name", "--workers", "1", "--out", str(tmp_path / "run"))
    assert "Traceback" not in ran.stderr, ran.stderr
    last = ran.stderr.splitlines()[-1]
    assert re.search(BROKEN["server fails"][2], last), ran.stderr
    assert ran.returncode == 1
    assert json.loads(ran.stdout) == {"error": last.removeprefix("fedquit: "), "exit_code": 1}


@pytest.mark.parametrize("wrong", BROKEN)
def test_whatever_is_wrong_with_a_method_is_said_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    code, error, said = BROKEN[wrong]
    install(tmp_path, code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    try:
        with pytest.raises(error, match=said) as refused:
            run_simulation({**SMALL, "method": "their-name"}, out=tmp_path / "run", workers=1)
        assert type(refused.value) is error
    finally:
        sys.modules.pop("theirs", None)


def test_a_setting_of_theirs_is_checked_like_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, HALVE, "theirs:Halve")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(InputError, match=r"'factr' \(did you mean 'factor'\?\); known: factor, trace"):
            run_simulation({**SMALL, "method": "their-name", "method-settings": "factr=1"}, out=tmp_path / "run")
    finally:
        sys.modules.pop("theirs", None)
    assert not (tmp_path / "run").exists()
