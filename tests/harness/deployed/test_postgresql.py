"""The PostgreSQL of the tests leaves nothing, and what a killed run left goes with the next."""

import multiprocessing
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from tests.harness.deployed.postgresql import (
    LOCK,
    PREFIX,
    is_at_work,
    postgresql_programs,
    remove_abandoned,
    running_postgresql,
)
from tests.harness.waiting import until


@pytest.fixture
def programs() -> Path:
    """Return PostgreSQL's programs."""
    found = postgresql_programs()
    if found is None:
        pytest.skip("PostgreSQL is not installed; on Debian: apt-get install postgresql")
    return found


def _serve(programs: Path, place: str, ready: str) -> None:
    tempfile.tempdir = place
    with running_postgresql(programs):
        Path(ready).touch()
        time.sleep(600)


def test_what_a_killed_run_left_is_ended_and_removed_and_nothing_else(programs: Path, tmp_path: Path) -> None:
    place = Path(tempfile.mkdtemp(prefix="fedquit-rig-"))  # its user must come in, and may not into `tmp_path`
    place.chmod(0o755)
    try:
        run = multiprocessing.get_context("fork").Process(
            target=_serve, args=(programs, str(place), str(tmp_path / "ready"))
        )
        run.start()
        until((tmp_path / "ready").exists, "PostgreSQL", moving=lambda: list(place.iterdir()))
        (folder,) = place.iterdir()
        remove_abandoned(place)
        assert (folder / LOCK).exists(), "its run is at work"
        server = int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        run.kill()
        run.join()
        assert is_at_work(server)
        (place / f"{PREFIX}of-another").mkdir()
        remove_abandoned(place)
        assert not is_at_work(server)
        assert [path.name for path in place.iterdir()] == [f"{PREFIX}of-another"]
    finally:
        remove_abandoned(place)
        shutil.rmtree(place)
