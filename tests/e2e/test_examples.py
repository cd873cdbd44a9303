"""Every example in docs/examples runs as it stands, on tiny settings, and does what it is there to show."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedquit.client.device.join import free_port
from fedquit.processes.supervisor import listens
from tests.harness.processes import BIN, ROOT, own_flower, started_with
from tests.harness.waiting import MOST, files, until

pytestmark = pytest.mark.timeout(MOST)
EXAMPLES = ROOT / "docs" / "examples"
TINY = ["--clients", "3", "--rounds", "2", "--recover", "budget", "--recover-rounds", "1", "--reference", "none"]
SHOWS = {
    "own_data.py": ("dataset", "own_data:load"),
    "own_model.py": ("model", "own_model:build"),
    "own_method.py": ("method", "fresh-head"),
    "own_objective.py": ("objective", "smoothed"),
}


def test_every_example_is_run_by_a_test() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SHOWS, "flower_app.py"}
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({path.name})" in text for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", SHOWS)
def test_an_example_of_something_of_ones_own_runs_and_uses_it(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *TINY, "--out", str(tmp_path / "run"), "--json"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    key, value = SHOWS[name]
    assert report["config"][key] == value
    assert report["stages"]["recovered"]["model_sha256"] != report["stages"]["original"]["model_sha256"]


def test_flowers_simulation_runs_an_app_that_gained_forgetting(tmp_path: Path) -> None:
    with own_flower(tmp_path / "flower") as environment:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "flower_app.py")],
            cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "outcomes: {6: 'forgotten'}" in said
    shown = dict(re.findall(r"after round (\d+): .*client-2 ([\d.]+)", said))
    assert float(shown["6"]) < float(shown["5"]) - 0.05
    others = dict(re.findall(r"after round (\d+): client-0 ([\d.]+)", said))
    assert float(others["8"]) > float(others["5"]) - 0.05


def deployed_app(folder: Path, rounds: int, forget: int) -> None:
    """Write the example as an app to deploy, as its README says, with fewer rounds."""
    (found,) = re.findall(r"```toml\n(.*?)```", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    folder.mkdir()
    (folder / "pyproject.toml").write_text(found)
    text = (EXAMPLES / "flower_app.py").read_text(encoding="utf-8")
    for before, after in (("CLIENTS, ROUNDS = 4, 8", f"CLIENTS, ROUNDS = 4, {rounds}"), ("{6: 2}", f"{{{forget}: 2}}")):
        assert before in text
        text = text.replace(before, after)
    (folder / "flower_app.py").write_text(text)


def test_an_app_that_gained_forgetting_forgets_when_deployed(tmp_path: Path) -> None:
    deployed_app(tmp_path / "app", rounds=5, forget=4)
    (tmp_path / "out").mkdir()
    superlink = f"127.0.0.1:{(port := free_port())}"
    running = list[subprocess.Popen[bytes]]()

    with own_flower(tmp_path / "flower") as environment:

        def start(name: str, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
            with (tmp_path / "out" / f"{name}.log").open("wb") as log:
                running.append(
                    subprocess.Popen(
                        [str(BIN / program), *arguments],
                        cwd=tmp_path / "out", env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                        stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                    )
                )  # fmt: skip
            return running[-1]

        def said(name: str) -> str:
            return (tmp_path / "out" / f"{name}.log").read_text(encoding="utf-8", errors="replace")

        try:
            config = f'[superlink.deployed]\naddress = "{superlink}"\ninsecure = true\n'
            (tmp_path / "flower" / "config.toml").write_text(config)
            alone = ("--insecure", "--host", "127.0.0.1", "--port")
            start("superlink", "flower-superlink", *alone, str(port), "--disable-runtime-dependency-installation")
            until(lambda: listens(port), "SuperLink", every=0.2)
            for client in (0, 1, 2):
                node = ("--superlink", superlink, "--node-config", f"partition-id={client}")
                start(f"node-{client}", "flower-supernode", *alone, str(free_port()), *node)
            run = start("run", "flwr", "run", str(tmp_path / "app"), "deployed", "--stream")
            until(lambda: "outcomes:" in said("run") or run.poll(), "end", moving=lambda: files(tmp_path), every=0.5)
        finally:
            for process in reversed(running):
                process.terminate()
            for process in running:
                process.wait(60)
    assert "outcomes: {4: 'forgotten'}" in said("run"), said("run")
    shown = dict(re.findall(r"after round (\d+): .*client-2 ([\d.]+)", said("run")))
    assert float(shown["4"]) < float(shown["3"])
    until(lambda: not started_with(tmp_path / "flower"), "end of Flower's processes", every=0.2)
