"""Who installs what: a device needs no extra, and whoever lacks one is told its name."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fedquit.extras import EXTRAS
from tests.harness.rehearsal import Rehearsal, rehearse

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LACKING = "import sys\nfor name in {lacking!r}: sys.modules[name] = None\n"
COMMAND = "from fedquit.cli import main\nsys.argv = ['fedquit', *{arguments!r}]\nmain()"
IMPORTED = {"grpcio-health-checking": "grpc_health", "scikit-learn": "sklearn"}
"""Packages that are imported by another name than they are installed by."""
MESSAGE = """
from pathlib import Path
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from fedquit.client.app import app
from fedquit.client.data.build_data_and_model import initial_model
from fedquit.server.federation import Federation
from fedquit.strategies.flower_internals import become_server_task

become_server_task(1)
settings = Federation.read(Path({server!r})).settings()
context = Context(1, 2, {{"kit": {kit!r}}}, RecordDict(), settings.run_config())
config = ConfigRecord({{"seed": 5, "lr": 0.1, "phase": "train", "server-round": 1}})
content = RecordDict({{"arrays": ArrayRecord(initial_model(settings, 0).state_dict()), "config": config}})
print(app(Message(content, 2, "train"), context).content["metrics"]["num-examples"])
"""


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    return rehearse(tmp_path_factory.mktemp("extras") / "federation", devices=2, samples=40)


def run(code: str, *lacking: str) -> "subprocess.CompletedProcess[str]":
    """Run code in an interpreter that lacks the packages of some extras."""
    packages = [package for extra in lacking for package in EXTRAS[extra]]
    command = [sys.executable, "-c", LACKING.format(lacking=packages) + code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})


def test_each_package_of_an_extra_is_known_by_the_name_it_is_imported_by() -> None:
    for extra, packages in EXTRAS.items():
        names = [re.split(r"[\[>=]", each)[0] for each in PROJECT["optional-dependencies"][extra]]
        assert {IMPORTED.get(name, name).replace("-", "_") for name in names} == set(packages)


@pytest.mark.parametrize(
    ("arguments", "extra", "package"),
    [
        (["simulate", "--rounds", "1"], "simulation", "sklearn"),
        (["serve", "SERVER"], "server", "alembic"),
        (["ledger", "check", "SERVER"], "server", "sqlalchemy"),
    ],
)
def test_a_command_that_lacks_its_extra_names_it(
    rehearsal: Rehearsal, arguments: list[str], extra: str, package: str
) -> None:
    given = [str(rehearsal.server) if argument == "SERVER" else argument for argument in arguments]
    done = run(COMMAND.format(arguments=given), extra)
    assert done.stderr == f"fedquit: {package} is not installed: pip install 'fedquit[{extra}]'\n"
    assert done.returncode == 4


@pytest.mark.parametrize(
    ("code", "extra", "package"),
    [
        ("fedquit.simulate(rounds=1)", "simulation", "sklearn"),
        ("fedquit.read_results({results!r}).plot()", "simulation", "matplotlib"),
        ("fedquit.read_results({results!r}).frame()", "frames", "pandas"),
    ],
)
def test_a_call_from_python_that_lacks_its_extra_names_it(code: str, extra: str, package: str) -> None:
    call = code.replace("{results!r}", repr(str(ROOT / "docs" / "results" / "compare" / "samples-10")))
    tried = f"import fedquit\ntry: {call}\nexcept fedquit.InputError as error: print(error)"
    done = run(tried, extra)
    assert done.stdout == f"{package} is not installed: pip install 'fedquit[{extra}]'\n", done.stderr[-2000:]


@pytest.mark.parametrize(
    ("arguments", "exits"),
    [(["doctor", "KIT"], 0), (["record", "KIT", "--json"], 0), (["join", "KIT", "--check"], 2), (["forget", "KIT"], 2)],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_the_commands_of_a_device_need_no_extra(rehearsal: Rehearsal, arguments: list[str], exits: int) -> None:
    kit = str(rehearsal.kits()[0].folder)
    done = run(COMMAND.format(arguments=[kit if given == "KIT" else given for given in arguments]), *EXTRAS)
    assert done.returncode == exits, done.stdout + done.stderr
    assert "not installed" not in done.stdout + done.stderr


def test_a_device_trains_without_the_packages_of_simulations(rehearsal: Rehearsal) -> None:
    kit = rehearsal.kits()[0].folder
    done = run(MESSAGE.format(server=str(rehearsal.server), kit=str(kit)), "simulation")
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == 20
