"""What a run of the tests leaves in the system's folder for temporary files: nothing if it was green."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.waiting import until

ROOT = Path(__file__).resolve().parents[2]
INNER = """
import shutil, tempfile, time
from pathlib import Path
import pytest

@pytest.fixture(scope="session")
def rig():
    folder = Path(tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder)

@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")

def test_one(tmp_path, shared, rig):
    for folder in (tmp_path, shared, rig):
        (folder / "file").write_text("large")
    {ends}
"""


def begun(folder: Path, ends: str) -> "subprocess.Popen[str]":
    """Begin a small run as ours are configured, whose temporary files are in a folder."""
    (folder / "temporary").mkdir()
    (folder / "test_inner.py").write_text(INNER.format(ends=ends))
    arguments = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), "-p", "tests.conftest"]
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments, "-p", "no:cacheprovider", str(folder / "test_inner.py")],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder / "temporary"), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left(folder: Path) -> list[str]:
    """Return the files that are left."""
    return [path.name for path in (folder / "temporary").rglob("*") if path.is_file()]


@pytest.mark.parametrize(("ends", "leaves"), [("", []), ("assert False", ["file", "file"])])
def test_a_green_run_leaves_no_file_and_a_red_one_those_of_its_tests(
    ends: str, leaves: list[str], tmp_path: Path
) -> None:
    said, _ = begun(tmp_path, ends).communicate(timeout=300)
    assert ("1 passed" in said, "1 failed" in said) == (not leaves, bool(leaves)), said
    assert left(tmp_path) == leaves


def test_a_run_that_is_terminated_removes_what_it_began(tmp_path: Path) -> None:
    run = begun(tmp_path, 'Path("WAITS").touch(); time.sleep(600)'.replace("WAITS", str(tmp_path / "waits")))
    until((tmp_path / "waits").exists, "test at work", moving=lambda: left(tmp_path))
    run.send_signal(signal.SIGTERM)
    said, _ = run.communicate(timeout=300)
    assert run.returncode == pytest.ExitCode.INTERRUPTED, said
    others = [path.name for path in (tmp_path / "temporary").iterdir() if not path.name.startswith("pytest-of-")]
    assert others == [], "pytest removes its own when it runs again"


def test_an_example_of_the_documentation_leaves_no_folder() -> None:
    product = [
        path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in ("tests", "fedquit", ".venv")
    ]
    leaking = [path.name for path in product if re.search(r">>> .*mkdtemp", path.read_text(encoding="utf-8"))]
    assert len(product) > 300
    assert leaking == []
