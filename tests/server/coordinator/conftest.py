"""One rehearsed deployment for all tests of the coordinator: each changes a copy of its own."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.harness.rehearsal import Rehearsal, rehearse
from tests.server.coordinator.observed_grid import Make


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rehearse(tmp_path_factory.mktemp("deployment") / "made").folder


@pytest.fixture
def make(template: Path, tmp_path: Path) -> Make:
    """Copy the deployment, and have its server.toml say what the test wants."""

    def made(**tables: dict[str, Any]) -> Rehearsal:
        rehearsal = Rehearsal(shutil.copytree(template, tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"))
        rehearsal.tell(tables)
        return rehearsal

    return made
