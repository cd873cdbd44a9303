"""A server of real processes is backed up while it serves, restored into another folder, and serves its devices."""

import shutil
import sys
from pathlib import Path

import pytest

from fedquit.server.provision.backup.restore_backup import restore_backup
from tests.harness.deployment import Deployment, made
from tests.harness.waiting import MOST

pytestmark = [
    pytest.mark.timeout(2 * MOST),
    pytest.mark.skipif(sys.platform != "linux", reason="deployments are tried on Linux"),
]


def steps(deployment: Deployment) -> int:
    with deployment.ledger() as ledger:
        last = ledger.last_step()
    return last.number if last else 0


def test_a_server_backed_up_while_it_serves_is_restored_and_its_devices_rejoin(tmp_path: Path) -> None:
    deployment = made(tmp_path / "made", {"schedule": {"every": 1}}, devices=2, samples=80)
    with deployment.running():
        deployment.until(lambda: steps(deployment) >= 1, "round", 300.0, 0.5)
        backup = deployment.run("backup", "backup", deployment.server, tmp_path / "saved.tar")
        assert backup.wait(120) == 0, (deployment.logs / "backup.log").read_text()
    restored = restore_backup(tmp_path / "saved.tar", tmp_path / "other" / "server")
    assert restored.event >= 3  # two devices, an operator
    (deployment.folder / "kits").rename(tmp_path / "other" / "kits")  # copytree cannot copy a socket that a device left
    shutil.rmtree(deployment.folder)
    other = Deployment(tmp_path / "other")
    before = steps(other)
    with other.running():
        other.until(lambda: steps(other) > before, "round after the restore", 300.0, 0.5)
        with other.ledger() as ledger:
            last = ledger.last_step()
            assert last is not None
            assert {given.member for given in last.contributions} == {0, 1}
            assert ledger.check_chain() == []
