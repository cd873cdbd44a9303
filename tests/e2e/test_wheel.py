"""What people install: the wheel, made from the sdist, in an environment without this repository, in an empty folder.

Other packages are those of this environment, so nothing is downloaded.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from fedquit.extras import EXTRAS
from fedquit.server.provision.containers import container_files
from fedquit.server.provision.containers.container_files import chart_files
from tests.harness.deployment import made
from tests.harness.processes import ROOT
from tests.harness.waiting import MOST

pytestmark = [
    pytest.mark.timeout(MOST),
    pytest.mark.skipif(sys.platform != "linux", reason="deployments are found in /proc"),
]
TINY = ["--model", "mlp", "--clients", "3", "--rounds", "1", "--recover-rounds", "1", "--reference", "none"]
LINK = re.compile(r"\]\((?!https?:)([^)#]+\.(?:md|py))")
LACKING = "import sys\nfor name in {lacking!r}: sys.modules[name] = None\n"
SCRIPT = "#!{python}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build sdist and wheel of what git would commit, and return their folder."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if os.path.lexists(ROOT / name):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made), str(source)]
    built = subprocess.run(command, cwd=made, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return made


@pytest.fixture(scope="module")
def python(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a new environment, and return its interpreter."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    (wheel,) = dist.glob("*.whl")
    interpreter = folder / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([interpreter, "-c", where], capture_output=True, text=True, check=True).stdout[:-1])
    others = f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n"
    (packages / "others.pth").write_text(others, encoding="utf-8")  # after its own, and no editable install's hook
    command = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--no-deps", "--no-index"]
    installed = subprocess.run([*command, "--force-reinstall", wheel], capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    for script in entry_points(group="console_scripts"):
        if script.name.startswith("fl"):  # Flower's programs, of this environment too
            path = folder / "bin" / script.name
            path.write_text(SCRIPT.format(python=interpreter, module=script.module, function=script.attr))
            path.chmod(0o755)
    return interpreter


def test_the_wheel_has_configs_and_container_files_and_no_test(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    assert sdist.name.startswith("fedquit-")
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {f"fedquit/simulations/configs/{path.name}" for path in (ROOT / "simulations" / "configs").glob("*.toml")}
    assert len(shipped) >= 10
    containers = {f"fedquit/{path.relative_to(ROOT)}" for path in [container_files.HERE / "Dockerfile", *chart_files()]}
    assert len(containers) >= 5
    assert shipped | containers <= set(names)
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"fedquit"}
    assert not [name for name in names if "/tests/" in name]


def test_the_sdist_has_source_licence_and_documents_and_no_tests(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    assert sdist.stat().st_size < 2_000_000
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        readme = archive.extractfile(f"{sdist.name.removesuffix('.tar.gz')}/README.md")
        assert readme is not None
        linked = set(LINK.findall(readme.read().decode()))
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "client/requests/proto/forget.proto"} <= names
    assert len(linked) > 10
    assert linked <= names, "a link of the README leads out of the sdist"
    assert not [name for name in names if name.startswith("tests") or name.endswith((".pyc", ".gz"))]


Fedquit = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def fedquit(python: Path, tmp_path: Path) -> Fedquit:
    """Return what runs the installed command in an empty folder, which sees nothing of this repository."""

    def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
        command = [str(python.parent / "fedquit"), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_the_installed_wheel_simulates_by_config_name_in_an_empty_folder(python: Path, fedquit: Fedquit) -> None:
    def told(*arguments: str) -> str:
        done = fedquit(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    paths = [Path(config["path"]) for config in json.loads(told("configs", "--json"))]
    assert len(paths) >= 10
    assert all(path.is_relative_to(python.parents[1]) for path in paths)
    planned = json.loads(told("compare", "samples-10", "--plan", "--json"))
    assert any(cell["kind"] == "row" for cell in planned)
    report = json.loads(told("simulate", *TINY, "--out", "run", "--json"))
    assert report["stages"]["recovered"]


def test_the_installed_wheel_without_extras_is_a_device(fedquit: Fedquit, tmp_path: Path) -> None:
    for arguments in (["federation.toml", "--example"], ["federation.toml"]):
        done = fedquit("provision", *arguments)
        assert done.returncode == 0, done.stderr
    (tmp_path / "base").mkdir()
    lacking = [package for extra in ("server", "simulation") for package in EXTRAS[extra]]
    (tmp_path / "base" / "sitecustomize.py").write_text(LACKING.format(lacking=lacking))
    base = {"PYTHONPATH": str(tmp_path / "base")}
    assert fedquit("join", "--help", **base).returncode == 0
    checked = fedquit("doctor", "clinics/kits/north", "--json", **base)
    assert "data" in checked.stdout, checked.stderr
    assert "Traceback" not in checked.stderr
    refused = fedquit("serve", "clinics/server", **base)
    assert "pip install 'fedquit[server]'" in refused.stderr


def test_a_server_and_devices_of_the_installed_wheel_train_together(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = made(tmp_path / "made", {"schedule": {"every": 1, "rounds": 1}}, devices=2, samples=60)
    deployment.python = python
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with deployment.running(), deployment.ledger() as ledger:
        deployment.until(lambda: ledger.steps(phase="train"), "round of training", 300, 1)
        assert all(process.command.startswith(str(python)) for process in deployment.processes("SuperNode", "join"))
    assert all(list(kit.folder.glob("record.db")) for kit in deployment.kits.values())
