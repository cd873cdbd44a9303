"""Processes that compute nothing load no torch: each runs in an interpreter that refuses to import it."""

import os
import subprocess
import sys

import pytest

from tests.harness.rehearsal import Rehearsal, rehearse

HEAVY = ("torch", "torchvision", "sklearn", "pandas", "matplotlib", "scipy", "flwr_datasets", "datasets", "ray")
"""What only training, forgetting, figures and data sets need."""
REFUSING = "import sys\nfor name in {refused!r}: sys.modules[name] = None\n"
COMMAND = "from fedquit.cli import main\nsys.argv = ['fedquit', *{arguments!r}]\nmain()"
SERVE = """
from pathlib import Path
from fedquit.server.serve.serve import make_server
supervisor, run = make_server(Path({server!r}), proxy=False, listener=print)
"""
PAGE = """
from pathlib import Path
import fedquit.server.page.__main__
from fedquit.server.federation import Federation
from fedquit.server.page.access import Access
from fedquit.server.page.routes import make_page
from starlette.testclient import TestClient
folder = Path({server!r})
federation = Federation.read(folder)
page = TestClient(make_page(folder, federation, access=Access.of(folder, federation)), base_url="http://localhost")
assert [page.get(path).status_code for path in ("/", "/metrics", "/api/requests")] == [200, 200, 200]
"""
SERVICE = """
import threading
from pathlib import Path
from fedquit.server.service.__main__ import serve
stop = threading.Event()
stop.set()
serve(Path({server!r}), 0, stop)
"""
JOIN = """
from pathlib import Path
from fedquit.client.device import command
from fedquit.client.device.join import make_device
make_device(Path({kit!r}), print)
"""


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    return rehearse(tmp_path_factory.mktemp("light") / "federation", devices=2, samples=40)


def run(rehearsal: Rehearsal, code: str, refused: tuple[str, ...] = HEAVY) -> "subprocess.CompletedProcess[str]":
    """Run code in an interpreter that refuses to import some packages."""
    places = {"server": str(rehearsal.server), "kit": str(rehearsal.kits()[0].folder)}
    for name, place in places.items():
        code = code.replace(f"{{{name}!r}}", repr(place))
    command = [sys.executable, "-c", REFUSING.format(refused=refused) + code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})


def test_a_device_that_waits_loads_neither_torch_nor_what_checks_settings(rehearsal: Rehearsal) -> None:
    done = run(rehearsal, JOIN, (*HEAVY, "flwr", "numpy", "pydantic", "grpc", "sqlalchemy"))
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_package_and_the_check_of_a_receipt_load_no_torch_and_no_flower(rehearsal: Rehearsal) -> None:
    code = "import fedquit; dir(fedquit); from fedquit import FedquitError, InputError, Receipt, verify"
    done = run(rehearsal, code, (*HEAVY, "flwr", "pydantic", "grpc._channel", "sqlalchemy"))
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("code", [SERVE, PAGE, SERVICE], ids=["serve", "page", "service"])
def test_what_only_waits_for_others_loads_no_torch(rehearsal: Rehearsal, code: str) -> None:
    done = run(rehearsal, code)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("arguments", "exits"),
    [
        (("--help",), 0),
        (("serve", "--help"), 0),
        (("doctor", "--help"), 0),
        (("join", "--help"), 0),
        (("verify", "--help"), 0),
        (("ledger", "check", "SERVER"), 0),
        (("ledger", "events", "SERVER"), 0),
        (("ledger", "export", "SERVER"), 0),
        (("member", "list", "SERVER"), 0),
        (("requests", "KIT"), 2),  # nobody answers
        (("status", "KIT", "0" * 64), 2),
        (("watch", "KIT", "0" * 64, "--timeout", "1"), 2),
        (("methods",), 0),
        (("objectives", "--json"), 0),
        (("strategies",), 0),
        (("codecs",), 0),
    ],
    ids=lambda given: "-".join(given[:2]) if isinstance(given, tuple) else "",
)
def test_a_command_that_computes_nothing_loads_no_torch_and_no_flower(
    rehearsal: Rehearsal, arguments: tuple[str, ...], exits: int
) -> None:
    places = {"SERVER": str(rehearsal.server), "KIT": str(rehearsal.kits()[0].folder)}
    given = [places.get(argument, argument) for argument in arguments]
    done = run(rehearsal, COMMAND.format(arguments=given), (*HEAVY, "flwr"))
    assert done.returncode == exits, done.stdout[-500:] + done.stderr[-2000:]
